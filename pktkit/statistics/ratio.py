"""Which share of the distance from target to source a strategy has closed, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
from numpy.typing import ArrayLike

from pktkit.statistics.components import (
    MeanSquares,
    degrees_of_freedom,
    item_covariance,
    mean_squares,
)
from pktkit.statistics.differences import Interval, as_difference

_WIDEST = 1e6


@attrs.frozen
class ShareClosed:
    """A share of the source-target distance: 0 is the target, 1 the source; may lie outside."""

    share: float
    interval: Interval


def share_closed(
    difference: ArrayLike, distance: ArrayLike, *, alpha: float = 0.05
) -> ShareClosed | None:
    """Return `mean(difference) / mean(distance)` with its interval, or None if it has no meaning.

    The interval holds every share `g` for which "the mean of `difference - g distance` is 0" is not
    rejected at alpha (Fieller, Journal of the Royal Statistical Society B 16(2), 1954), tested with
    the standard error and degrees of freedom of `components`, on items paired as everywhere.
    Where the source is not shown to be above the target (its own interval holds 0), no share of
    their distance has a bounded interval, and there is none.

    Arguments:
        difference: strategy minus target, `[seeds, items]`.
        distance: source minus target, one row of as many items.
        alpha: 1 minus the interval's level.
    """
    above, gap = as_difference(difference), as_difference(distance)
    if gap.shape != (1, above.shape[1]):
        raise ValueError(f"the distance must be [1, {above.shape[1]}], got {gap.shape}.")
    items = above.shape[1]
    if items < 2:
        return None
    squares = mean_squares(above)
    covariance = item_covariance(above.mean(axis=0), gap[0])
    mean, length = float(above.mean()), float(gap.mean())
    least = (1.5 / items) ** 2  # one more item may always differ: the rule of three, about 3/n
    needed = _critical(items - 1.0, alpha) * math.sqrt(max(covariance[1, 1] / items, least))
    if length <= needed:
        return None

    def excess(share: float) -> float:
        """How far the statistic of a share is beyond what alpha allows; negative inside."""
        of_items = above.shape[0] * float(
            covariance[0, 0] - 2.0 * share * covariance[0, 1] + share**2 * covariance[1, 1]
        )
        of_share = attrs.evolve(squares, of_items=max(0.0, of_items))
        error = math.sqrt(max(of_share.seed_variance + of_share.item_variance, least))
        return abs(mean - share * length) - _critical(_freedom(of_share), alpha) * error

    share = mean / length
    low, high = (_edge(excess, share, sign) for sign in (-1.0, 1.0))
    if low is None or high is None:
        return None
    return ShareClosed(share, Interval(low, high))


def _freedom(squares: MeanSquares) -> float:
    return degrees_of_freedom(
        squares.seed_variance, squares.item_variance, squares.seeds, squares.items
    )


def _critical(freedom: float, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1.0 - alpha / 2))


def _edge(excess: Callable[[float], float], inside: float, sign: float) -> float | None:
    """Return where `excess` turns positive on the way from `inside`; None if nowhere near."""
    from scipy.optimize import brentq

    step = 0.01
    while excess(inside + sign * step) <= 0.0:
        step *= 2.0
        if step > _WIDEST:
            return None
    return float(brentq(excess, inside, inside + sign * step, xtol=1e-9))

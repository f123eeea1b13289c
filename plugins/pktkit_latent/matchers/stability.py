"""How far the choice of a critical layer depends on which items it was made on."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import ArrayLike

from pktkit.errors import UsageError

LEVEL = 0.95
"""Share of the resamples that lies within an interval, the same share left out on both sides."""


@attrs.frozen
class AttributionStability:
    """Layer scores with their spread over resamples of the items.

    Arguments:
        mean: mean score per block over the items, in the unit of the scores.
        low, high: 2.5 and 97.5 % quantile of that mean over the resamples, per block.
        wins: share of resamples in which a block has the largest absolute mean; they sum to 1.
        items, resamples: how much it rests on.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    wins: tuple[float, ...]
    items: int
    resamples: int

    @property
    def critical(self) -> int:
        """The block with the largest absolute mean score; the lower one of equals."""
        return int(np.abs(self.mean).argmax())

    @property
    def agreement(self) -> float:
        """Share of resamples that choose the critical block."""
        return self.wins[self.critical]


def attribution_stability(
    scores_per_item: ArrayLike, resamples: int, seed: int
) -> AttributionStability:
    """Bootstrap layer scores over items (Efron, Tibshirani 1993, chapter 13, percentiles).

    Arguments:
        scores_per_item: `[items, L]`, e.g. `Probe.attribution`, as an array.
        resamples: how many times as many items are drawn with replacement, at least 1.
        seed: of the draws; the same seed gives the same result.

    Raises:
        UsageError: no items or no blocks, a score that is not finite, or no resamples.
    """
    scores = np.asarray(scores_per_item, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise UsageError(f"scores must be [items, blocks] and not empty, got {scores.shape}.")
    if not np.isfinite(scores).all():
        raise UsageError("scores per item hold NaN or infinite values.")
    if resamples < 1:
        raise UsageError(f"resamples must be at least 1, got {resamples}.")
    items, blocks = scores.shape
    # How often each item is drawn says all about a resample, and leaves one matrix product to do.
    counts = np.random.default_rng(seed).multinomial(items, [1 / items] * items, size=resamples)
    means = counts @ scores / items
    winners = np.abs(means).argmax(axis=1)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return AttributionStability(
        mean=tuple(scores.mean(axis=0).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        wins=tuple((np.bincount(winners, minlength=blocks) / resamples).tolist()),
        items=items,
        resamples=resamples,
    )

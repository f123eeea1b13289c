"""What is compared: scores `[seeds, items]`, their differences, and counts of items."""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@attrs.frozen
class Interval:
    """A confidence interval, ends included, in the unit of what it is an interval of."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def scaled(self, factor: float) -> Interval:
        """Return the interval in another unit; the factor is positive."""
        return Interval(factor * self.low, factor * self.high)


def as_difference(difference: ArrayLike) -> FloatArray:
    """Return a checked `[seeds, items]` array of finite differences; one row may come flat.

    Raises:
        ValueError: it has no entry, more than two axes, or an entry that is not finite.
    """
    array = np.atleast_2d(np.asarray(difference, dtype=np.float64))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a difference must be [seeds, items] and not empty, got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError("a difference holds NaN or infinite values; drop failed cells first.")
    return array


def lost(base: ArrayLike, row: ArrayLike, *, right_from: float = 0.5) -> float:
    """Return how many items `base` has right and `row` has wrong, mean over seeds.

    Arguments:
        base, row: scores `[seeds, items]`; an array with one seed is broadcast.
        right_from: a score at or above this counts as right.
    """
    base_right = as_difference(base) >= right_from
    row_right = as_difference(row) >= right_from
    return float((base_right & ~row_right).sum(axis=1).mean())


def gained(base: ArrayLike, row: ArrayLike, *, right_from: float = 0.5) -> float:
    """Return how many items `base` has wrong and `row` has right, mean over seeds."""
    return lost(row, base, right_from=right_from)


def mean_and_deviation(scores: ArrayLike) -> tuple[float, float | None]:
    """Return the mean score and the standard deviation of the seeds' means.

    Arguments:
        scores: `[seeds, items]`.

    Returns:
        Mean, and the sample deviation (divisor `seeds - 1`), which one seed does not have.
    """
    means = as_difference(scores).mean(axis=1)
    deviation = float(means.std(ddof=1)) if len(means) > 1 else None
    return float(means.mean()), deviation

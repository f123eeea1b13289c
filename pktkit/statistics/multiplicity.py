"""Looking at several strategies at once."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for having looked at all of them, in the order given.

    Comparing these with alpha keeps the chance of even one false claim at or below alpha, whatever
    the dependence (Holm, Scandinavian Journal of Statistics 6(2), 1979).
    """
    count = len(p_values)
    adjusted = [0.0] * count
    running = 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def smallest_adjusted_p(n_boot: int, looks: int) -> float:
    """Return the smallest p-value that the first of `looks` strategies can have after Holm.

    Arguments:
        n_boot: draws; the smallest p-value of one comparison is `2 / (n_boot + 1)`.
        looks: strategies that are compared with the same reference.
    """
    return min(1.0, max(1, looks) * 2.0 / (n_boot + 1))


def draws_needed(alpha: float, looks: int) -> int:
    """Return the least number of draws with `smallest_adjusted_p` below alpha."""
    return math.floor(2.0 * max(1, looks) / alpha)

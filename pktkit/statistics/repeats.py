"""How much scores move when nothing was changed: the same seed, run again."""

from __future__ import annotations

import attrs
from numpy.typing import ArrayLike

from pktkit.statistics.differences import as_difference


@attrs.frozen
class RepeatNoise:
    """What several runs of the same seed differ in, on the scale of the scores.

    Arguments:
        runs: how many runs of the seed are compared, the first included.
        items: items per run.
        differing: items whose score is not the same in every run.
        item_deviation: root mean square, over items, of the runs' standard deviation.
        mean_deviation: standard deviation of the runs' means.
    """

    runs: int
    items: int
    differing: int
    item_deviation: float
    mean_deviation: float

    def scaled(self, factor: float) -> RepeatNoise:
        """Return the same noise in another unit."""
        return attrs.evolve(
            self,
            item_deviation=factor * self.item_deviation,
            mean_deviation=factor * self.mean_deviation,
        )


def repeat_noise(scores: ArrayLike) -> RepeatNoise:
    """Compare runs that should be the same.

    Arguments:
        scores: `[runs, items]`, at least two runs.

    Raises:
        ValueError: there is only one run.
    """
    runs = as_difference(scores)
    if len(runs) < 2:
        raise ValueError("the noise of repeated runs needs at least two of them, got 1.")
    return RepeatNoise(
        runs=runs.shape[0],
        items=runs.shape[1],
        differing=int((runs != runs[0]).any(axis=0).sum()),
        item_deviation=float(runs.var(axis=0, ddof=1).mean() ** 0.5),
        mean_deviation=float(runs.mean(axis=1).std(ddof=1)),
    )

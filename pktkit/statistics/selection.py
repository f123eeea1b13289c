"""The winner's curse: the best of many on some items is worse on others.

The largest of K noisy means is above its own expectation, although each single one is not. What
choosing is worth is therefore measured on items that did not choose: items are bootstrapped, the
best configuration on the draw is scored on the items that the draw left out, and the mean over
draws is reported (Tsamardinos, Greasidou, Borboudakis, "Bootstrapping the out-of-sample predictions
for efficient and accurate cross-validation", Machine Learning 107, 2018; their BBC). Seeds are
lucky or not for all items at once, hence they are split too, where there are two: half of them
choose, the others score. Where nothing differs the estimate is unbiased; where something does it
is low, since each draw chooses with fewer items and seeds than there are and finds the best less
often. With one seed its luck is not corrected for. How much: docs/sweeps.md,
`benchmarks/selection_simulation.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pktkit.statistics.differences import FloatArray

DRAWS = 2000
_CHUNK_ENTRIES = 4_000_000


def corrected_gain(
    scores: ArrayLike, reference: ArrayLike, *, draws: int = DRAWS, seed: int = 0
) -> float | None:
    """Return the gain of choosing the best configuration, corrected for the choice.

    The uncorrected gain is the mean difference of the configuration with the highest mean; of
    several, the first.

    Arguments:
        scores: `[configurations, seeds, items]`.
        reference: `[seeds, items]`, what gains are measured from; one seed is broadcast.
        draws: of items and seeds.
        seed: of the draws.

    Returns:
        Mean difference on items and seeds that did not choose, in the unit of the scores; None
        with fewer than two items, of which none can be left out.
    """
    given = np.asarray(scores, dtype=np.float64)
    base = np.broadcast_to(np.asarray(reference, dtype=np.float64), given.shape[1:])
    configurations, seeds, items = given.shape
    if items < 2:
        return None
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ENTRIES // (items + configurations * seeds))
    gains: list[FloatArray] = []
    for start in range(0, draws, chunk):
        gains.append(_gains(given, base, min(chunk, draws - start), rng))
    return float(np.concatenate(gains).mean())


def _gains(
    scores: FloatArray, base: FloatArray, draws: int, rng: np.random.Generator
) -> FloatArray:
    """Return what the winners of some draws gain where they were not chosen, `[draws]`."""
    seeds, items = scores.shape[1:]
    counts = rng.multinomial(items, np.full(items, 1.0 / items), size=draws)
    counts = counts[(counts == 0).any(axis=1)]
    drawn = counts / items
    left_out = (counts == 0) / (counts == 0).sum(axis=1, keepdims=True)
    choosing, scoring = _split_seeds(seeds, len(counts), rng)
    chosen_on = np.einsum("csi,di,ds->dc", scores, drawn, choosing, optimize=True)
    winners = chosen_on.round(12).argmax(axis=1)
    # [draws, configurations, seeds] of the items left out; only the winner's row is needed.
    outside = np.einsum("csi,di->dcs", scores, left_out, optimize=True)
    outside = outside[np.arange(len(counts)), winners] - left_out @ base.T
    gains: FloatArray = (outside * scoring).sum(axis=1)
    return gains


def _split_seeds(seeds: int, draws: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Return weights `[draws, seeds]` of the seeds that choose, and of those that score."""
    if seeds == 1:
        return np.ones((draws, 1)), np.ones((draws, 1))
    ranks = rng.permuted(np.tile(np.arange(seeds), (draws, 1)), axis=1)
    first = ranks < (seeds + 1) // 2
    choosing, scoring = first / first.sum(axis=1, keepdims=True), ~first
    return choosing, scoring / scoring.sum(axis=1, keepdims=True)

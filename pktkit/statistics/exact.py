"""The second opinion on a difference: exact tests over items, with the seeds as they are.

Under "for these very runs, it does not matter which strategy an item's scores are called by", every
item's difference, summed over seeds, could as well have had the other sign (Fisher, "The Design of
Experiments", 1935, section 21; Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses",
2005, section 3.2). This asks nothing of any distribution, and says nothing of other seeds: with
seeds that differ it is far too sure of itself, so no claim is made from it.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import ArrayLike

from pktkit.statistics.differences import FloatArray, as_difference

_WHOLE = 1e-9


@attrs.frozen
class ExactTest:
    """Two-sided p-value of "the strategies are the same on these items, under these seeds".

    Arguments:
        p: not corrected for anything.
        name: `"McNemar"`, `"sign-flip"` (all flips), or `"sign-flip, N drawn"`.
    """

    p: float
    name: str


def exact_test(difference: ArrayLike, *, draws: int = 4000, seed: int = 0) -> ExactTest:
    """Test a difference by flipping the sign of whole items, all seeds of an item together.

    One seed of right-or-wrong scores gives McNemar's exact test (Psychometrika 12(2), 1947):
    binomial over the items only one of the two has right. Right-or-wrong scores of several seeds
    are tested over all `2^items` flips, by convolution. Graded scores are tested on random flips
    (`scipy.stats.permutation_test`).

    Arguments:
        difference: `[seeds, items]`, between -1 and 1.
        draws, seed: for graded scores only.
    """
    checked = as_difference(difference)
    sums = checked.sum(axis=0)
    whole = np.round(sums)
    if np.abs(sums - whole).max() > _WHOLE:
        return ExactTest(_drawn(sums, draws, seed), f"sign-flip, {draws} drawn")
    counts = np.abs(whole).astype(np.int64)
    if len(checked) == 1:
        return ExactTest(_mcnemar(whole), "McNemar")
    return ExactTest(_all_flips(counts, int(abs(whole.sum()))), "sign-flip")


def _mcnemar(signs: FloatArray) -> float:
    from scipy.stats import binomtest

    discordant = int((signs != 0).sum())
    if discordant == 0:
        return 1.0
    return float(binomtest(int((signs > 0).sum()), discordant, 0.5).pvalue)


def _all_flips(sizes: np.ndarray, observed: int) -> float:
    """Return the share of sign patterns whose sum is at least as far from 0 as `observed`.

    Items of one size are alike: how many of them are positive is binomial. A sum of at least
    `observed` means that the positive items hold at least half of `total + observed`.
    """
    total = int(sizes.sum())
    if observed == 0:
        return 1.0
    positive = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        of_size = np.zeros(size * count + 1)
        of_size[::size] = _fair_coins(int(count))
        positive = np.convolve(positive, of_size)
    return min(1.0, 2.0 * float(positive[(total + observed) // 2 :].sum()))


def _fair_coins(count: int) -> FloatArray:
    """Return the chance of every number of heads of `count` fair coins, `[count + 1]`."""
    from scipy.special import gammaln

    heads = np.arange(count + 1)
    logs = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1)
    chances: FloatArray = np.exp(logs - count * np.log(2.0))
    return chances


def _drawn(sums: FloatArray, draws: int, seed: int) -> float:
    from scipy.stats import permutation_test

    result = permutation_test(
        (sums,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=draws,
        batch=max(1, 1_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return min(1.0, float(result.pvalue))

"""Interval, p-value and detectable effect of a mean difference, from one two-level bootstrap.

Why not simply resample seeds and items. They are crossed: a lucky seed moves every item and a hard
item is hard for every seed, so resampling single scores is far too sure of itself, and resampling
both margins (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007) counts the
noise up to three times, while three seeds resampled say too little about their spread. Instead the
variance of the mean is split into a part of seeds and a part of items (`components`), and a draw is

    (item part + seed part) × sqrt(v / chi2(v))

* item part: items are bootstrapped, and what they share over seeds is kept (their means shrunk by
  `sqrt(1 - MS_rest / MS_item)`);
* seed part: normal with the seeds' variance of the mean, for three seeds cannot be resampled;
* the widening turns a normal into Student's t with `v` degrees of freedom, `k - 1` where only seeds
  matter and `n - 1` where only items do (`components.degrees_of_freedom`).

With one seed the items are bootstrapped as they are, and the interval speaks of items only. How
often these intervals hold the truth: docs/statistics.md, `benchmarks/statistics_simulation.py`.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import ArrayLike

from pktkit.settings import DEFAULT_DRAWS
from pktkit.statistics.components import degrees_of_freedom, mean_squares
from pktkit.statistics.differences import FloatArray, Interval, as_difference

_CHUNK_ENTRIES = 2_000_000
_FEW_VALUES = 50


@attrs.frozen
class PairedEvidence:
    """What one paired comparison says.

    Arguments:
        mean: mean difference, -1 to 1.
        interval: two-sided interval of the mean difference.
        p: two-sided p-value of "the mean difference is 0", not corrected for anything.
        detectable: smallest effect that would have been found with the power asked for.
        seeds, items: how much it rests on.
    """

    mean: float
    interval: Interval
    p: float
    detectable: float
    seeds: int
    items: int


def paired_evidence(
    difference: ArrayLike,
    *,
    n_boot: int = DEFAULT_DRAWS,
    alpha: float = 0.05,
    detectable_alpha: float | None = None,
    power: float = 0.8,
    seed: int = 0,
) -> PairedEvidence:
    """Return mean, interval, p-value and detectable effect from one set of draws.

    The parts agree: `p < alpha` never happens while the interval at level `1 - alpha` holds 0.

    Arguments:
        difference: `[seeds, items]`, between -1 and 1.
        n_boot: number of draws; the smallest possible p-value is `2 / (n_boot + 1)`.
        alpha: 1 minus the interval's level.
        detectable_alpha: the error rate `detectable` is computed for, `alpha` if not given; under
            Holm's correction over m strategies the first step is at `alpha / m`.
        power: chance of finding an effect of size `detectable`.
        seed: of the draws.
    """
    checked = as_difference(difference)
    draws = _plausible_means(checked, n_boot, seed)
    mean = float(checked.mean())
    return PairedEvidence(
        mean=mean,
        interval=_interval(draws, alpha),
        p=_p_value(draws),
        detectable=_detectable(draws, mean, detectable_alpha or alpha, power),
        seeds=checked.shape[0],
        items=checked.shape[1],
    )


def paired_bootstrap(
    difference: ArrayLike, *, n_boot: int = DEFAULT_DRAWS, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the interval of the mean difference over items and seeds.

    Items are bootstrapped (percentile method: Efron, Tibshirani, "An Introduction to the
    Bootstrap", 1993, chapter 13), seeds enter as described at the top of this module. With one seed
    the interval speaks of items only. With one item nothing is known: -1 to 1. Items that
    all differ alike give the interval of the rule of three, about 3/n to either side.

    Arguments:
        difference: `[seeds, items]`, between -1 and 1.
        level: share of samples whose interval holds the true mean difference.
    """
    draws = _plausible_means(as_difference(difference), n_boot, seed)
    return _interval(draws, 1.0 - level)


def paired_p_value(difference: ArrayLike, *, n_boot: int = DEFAULT_DRAWS, seed: int = 0) -> float:
    """Return the two-sided p-value of "the mean difference is 0", by inverting the interval.

    Twice the smaller share of draws on either side of 0, counting one more draw on that side so
    that p is never 0 (Davison, Hinkley, "Bootstrap Methods and their Application", 1997, sections
    4.2.5 and 5.4): `p < alpha` only where `paired_bootstrap` at level `1 - alpha` excludes 0.
    """
    return _p_value(_plausible_means(as_difference(difference), n_boot, seed))


def minimum_detectable_effect(
    difference: ArrayLike,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    n_boot: int = DEFAULT_DRAWS,
    seed: int = 0,
) -> float:
    """Return the smallest true difference that a sample like this one shows with this power.

    Half the interval's width plus the `power` quantile of the same draws about their mean (Bloom,
    "Minimum detectable effects", Evaluation Review 19(5), 1995: `(t_{alpha/2} + t_{1-power}) SE`).
    """
    checked = as_difference(difference)
    draws = _plausible_means(checked, n_boot, seed)
    return _detectable(draws, float(checked.mean()), alpha, power)


def _plausible_means(difference: FloatArray, n_boot: int, seed: int) -> FloatArray:
    """Draw means of the difference that the sample is compatible with, `[n_boot]`, ascending.

    Draws do not depend on the order of items, and those of `-difference` are exactly the negated
    ones: the items are reduced to sorted distinct values, of `-difference` if that sorts first.
    """
    items = difference.shape[1]
    if items < 2:
        return np.repeat([-1.0, 1.0], [n_boot // 2, n_boot - n_boot // 2])
    item_means = np.sort(difference.mean(axis=0).round(12)) + 0.0
    sign = 1.0
    if (-item_means[::-1]).tolist() < item_means.tolist():
        item_means, sign = -item_means[::-1], -1.0
    deviations = _deviations(difference, item_means, n_boot, np.random.default_rng(seed))
    draws = np.clip(difference.mean() + sign * deviations, -1.0, 1.0).round(12)
    return np.sort(draws) + 0.0


def _deviations(
    difference: FloatArray, item_means: FloatArray, n_boot: int, rng: np.random.Generator
) -> FloatArray:
    """Return draws of the mean about itself, `[n_boot]`, as described at the top."""
    squares = mean_squares(difference)
    of_seeds, seeds, items = squares.seed_variance, squares.seeds, squares.items
    if item_means[0] == item_means[-1]:
        # Items that all agree do not prove that the next one would. The share that differs is at
        # most about 3/n at 95 % (rule of three: Hanley, Lippman-Hand, JAMA 249(13), 1983).
        agreeing = rng.beta(1.0, items, n_boot) * rng.choice([-1.0, 1.0], n_boot)
        if of_seeds == 0.0:
            return agreeing
        return agreeing + np.sqrt(of_seeds) * rng.standard_t(seeds - 1, n_boot)
    deviations = np.sqrt(squares.shared) * _item_deviations(item_means, n_boot, rng)
    deviations += np.sqrt(of_seeds) * rng.standard_normal(n_boot)
    freedom = degrees_of_freedom(of_seeds, squares.item_variance, seeds, items)
    deviations *= np.sqrt(freedom / rng.chisquare(freedom, n_boot))
    return deviations


def _item_deviations(item_means: FloatArray, n_boot: int, rng: np.random.Generator) -> FloatArray:
    """Return bootstrapped means of the items about their mean, `[n_boot]`.

    Where items have few distinct values (right-or-wrong tasks), resampling n items is one
    multinomial draw of how often each value comes up, many times faster than drawing n items.
    """
    items = len(item_means)
    values, counts = np.unique(item_means, return_counts=True)
    if len(values) <= _FEW_VALUES:
        drawn_counts = rng.multinomial(items, counts / items, size=n_boot)
        of_values: FloatArray = drawn_counts @ (values - item_means.mean()) / items
        return of_values
    centred = item_means - item_means.mean()
    chunk = max(1, _CHUNK_ENTRIES // items)
    parts: list[FloatArray] = []
    for start in range(0, n_boot, chunk):
        drawn = rng.integers(items, size=(min(chunk, n_boot - start), items))
        parts.append(centred[drawn].mean(axis=1))
    deviations: FloatArray = np.concatenate(parts)
    return deviations


def _interval(draws: FloatArray, alpha: float) -> Interval:
    """Return the order statistics of ascending draws that match `_p_value` at alpha."""
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}.")
    rank = max(1, int(np.floor(alpha / 2 * (len(draws) + 1) + 1e-9)))
    return Interval(float(draws[rank - 1]), float(draws[-rank]))


def _p_value(draws: FloatArray) -> float:
    smaller = min(int((draws <= 0.0).sum()), int((draws >= 0.0).sum()))
    return min(1.0, 2.0 * (smaller + 1) / (len(draws) + 1))


def _detectable(draws: FloatArray, mean: float, alpha: float, power: float) -> float:
    interval = _interval(draws, alpha)
    above, below = np.quantile(draws - mean, [power, 1.0 - power])
    upper = float(above - below)
    return min(1.0, (interval.high - interval.low) / 2 + max(0.0, upper / 2))

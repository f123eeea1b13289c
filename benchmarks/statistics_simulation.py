"""How often the intervals of `pktkit.statistics` hold the truth, and how often Holm errs.

    python benchmarks/statistics_simulation.py [--simulations 2000]

Prints two tables. The first gives coverage and width of nominal 95 % intervals of a strategy minus
the untouched target. The second gives, where no strategy differs from its reference, how often at
least one of three strategies is called different after Holm's correction; the aim is 5 %.

Items are right when ability + easiness of the item + noise of this seed on this item is above 0,
all normal (a probit item-response model, Lord and Novick, "Statistical Theories of Mental Test
Scores", 1968, chapter 16). The seed moves the ability; `seed deviation` is what that does to the
mean score, in points.
"""

from __future__ import annotations

import argparse
import time

import attrs
import numpy as np
from scipy import stats

from pktkit.statistics import FloatArray, holm, paired_evidence

EASINESS = 1.0
NOISE = 0.7
TARGET_ABILITY = -0.5


@attrs.frozen
class Setting:
    """One situation to simulate.

    Arguments:
        seeds, items: size of the sample.
        seed_effect: deviation of the seed's effect on ability.
        shape: how seed effects are distributed, "normal" or "collapse" (one seed in five fails).
        effect: ability of the strategy above the target's.
    """

    seeds: int
    items: int
    seed_effect: float
    shape: str = "normal"
    effect: float = 0.7


SETTINGS = (
    *(Setting(3, 500, effect) for effect in (0.0, 0.025, 0.05, 0.1, 0.2, 0.3, 0.6)),
    Setting(3, 500, 0.1, "collapse"),
    *(Setting(3, items, 0.05) for items in (30, 100, 2000)),
    *(Setting(seeds, 500, 0.05) for seeds in (1, 2, 5, 10)),
    *(Setting(seeds, 500, 0.2) for seeds in (1, 2, 5, 10)),
)
NULL_SETTINGS = (
    *(Setting(3, 500, effect, effect=0.0) for effect in (0.0, 0.05, 0.1, 0.2, 0.6)),
    Setting(3, 500, 0.1, "collapse", effect=0.0),
    Setting(3, 30, 0.05, effect=0.0),
    Setting(2, 500, 0.1, effect=0.0),
    Setting(5, 500, 0.1, effect=0.0),
)


def seed_effects(setting: Setting, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw effects of seeds on ability, `[count]`, with mean 0."""
    if setting.shape == "collapse":
        return ((rng.random(count) < 0.2) * -2.5 + 0.5) * setting.seed_effect
    return rng.standard_normal(count) * setting.seed_effect


def strategy_scores(setting: Setting, easiness: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw right (1) or wrong (0) for a strategy, `[seeds, items]`."""
    ability = TARGET_ABILITY + setting.effect + seed_effects(setting, setting.seeds, rng)
    noise = NOISE * rng.standard_normal((setting.seeds, setting.items))
    return (ability[:, None] + easiness + noise > 0).astype(np.float64)


def true_scores(setting: Setting) -> FloatArray:
    """Return the mean score of very many seeds, by seed: over all items there could be."""
    effects = seed_effects(setting, 1_000_000, np.random.default_rng(0))
    spread = np.hypot(EASINESS, NOISE)
    scores: FloatArray = stats.norm.cdf((TARGET_ABILITY + setting.effect + effects) / spread)
    return scores


def coverage(setting: Setting, simulations: int, draws: int) -> tuple[float, float, float]:
    """Return coverage (%), mean width (points) and true seed deviation (points)."""
    rng = np.random.default_rng(1)
    by_seed = true_scores(setting)
    truth = float(by_seed.mean() - stats.norm.cdf(TARGET_ABILITY / np.hypot(EASINESS, NOISE)))
    hits, width = 0, 0.0
    for _ in range(simulations):
        easiness = EASINESS * rng.standard_normal(setting.items)
        noise = NOISE * rng.standard_normal(setting.items)
        target = (TARGET_ABILITY + easiness + noise > 0).astype(np.float64)
        difference = strategy_scores(setting, easiness, rng) - target
        interval = paired_evidence(difference, n_boot=draws).interval
        hits += truth in interval
        width += interval.high - interval.low
    return 100 * hits / simulations, 100 * width / simulations, 100 * float(by_seed.std())


def false_positives(setting: Setting, simulations: int, draws: int) -> tuple[float, float]:
    """Return how often (%) one of three equal strategies is called different: Holm, uncorrected.

    The reference is a strategy of the same kind with its own seed effects, shared by the three
    comparisons as `sft` is.
    """
    rng = np.random.default_rng(2)
    corrected = uncorrected = 0
    for _ in range(simulations):
        easiness = EASINESS * rng.standard_normal(setting.items)
        reference = strategy_scores(setting, easiness, rng)
        p_values = [
            paired_evidence(strategy_scores(setting, easiness, rng) - reference, n_boot=draws).p
            for _ in range(3)
        ]
        corrected += min(holm(p_values)) < 0.05
        uncorrected += min(p_values) < 0.05
    return 100 * corrected / simulations, 100 * uncorrected / simulations


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=1999)
    options = parser.parse_args()
    error = 100 * (0.05 * 0.95 / options.simulations) ** 0.5
    print(f"{options.simulations} simulations each; standard error {error:.1f} points\n")
    print("seeds  items  seed deviation  shape      coverage %  width")
    for setting in SETTINGS:
        start = time.perf_counter()
        held, width, deviation = coverage(setting, options.simulations, options.draws)
        print(
            f"{setting.seeds:5d}  {setting.items:5d}  {deviation:14.1f}  {setting.shape:9s}  "
            f"{held:10.1f}  {width:5.1f}   ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
    print("\nseeds  items  seed effect  shape      false with Holm %  without %")
    for setting in NULL_SETTINGS:
        with_holm, without = false_positives(setting, options.simulations, options.draws)
        print(
            f"{setting.seeds:5d}  {setting.items:5d}  {setting.seed_effect:11.3f}  "
            f"{setting.shape:9s}  {with_holm:17.1f}  {without:9.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

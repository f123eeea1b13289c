"""How often the intervals of `pktkit.statistics` hold the truth, and how often Holm errs.

    python benchmarks/statistics_simulation.py [--simulations 2000] [--only coverage]

Prints four tables in Markdown, those of docs/statistics.md:

* `coverage`, `corners`: how often nominal 95 % intervals of a strategy minus the untouched target
  hold the true difference, how wide they are, and how often the interval of the share of the
  source-target distance holds the true share;
* `null`: where no strategy differs from its reference, how often at least one of three is called
  different after Holm's correction, and without it, and by the exact test over items alone;
* `freedom`: coverage of the rule for degrees of freedom by numerical integration, for normal data,
  beside Satterthwaite's rule and the sum of independent t draws.

Items are right with probability `1 / (1 + exp(-(ability + easiness)))`, drawn anew for every seed
(Rasch, "Probabilistic Models for Some Intelligence and Attainment Tests", 1960): item difficulty is
normal and shared by all rows, a seed moves the ability, and the draw is the noise of one seed on
one item. The untouched target and the source are drawn once. `seed deviation` is what the seed
does to the mean score, in points.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import attrs
import numpy as np
from scipy import optimize, special, stats

from pktkit.statistics import (
    FloatArray,
    exact_test,
    holm,
    paired_evidence,
    share_closed,
)
from pktkit.statistics.components import degrees_of_freedom

EASINESS = 2.5
TARGET, SOURCE = -1.5, 3.0
STRATEGIES = 3
ALPHA = 0.05


@attrs.frozen
class Setting:
    """One situation to simulate.

    Arguments:
        seeds, items: size of the sample.
        seed_effect: deviation of the seed's effect on ability, in logits.
        effect: mean ability of the strategy above the target's; 0 is tuned to a true difference
            of exactly 0.
        shape: how seed effects are distributed, "normal" or "collapse" (one seed in five fails).
    """

    seeds: int
    items: int
    seed_effect: float
    effect: float = 1.5
    shape: str = "normal"


COVERAGE = tuple(
    Setting(seeds, items, seed_effect, effect)
    for seeds in (3, 5)
    for items in (100, 300, 1000)
    for seed_effect in (0.0, 0.1, 0.3)
    for effect in (0.3, 1.5, 3.0)
)
CORNERS = (
    *(Setting(1, 1000, effect) for effect in (0.0, 0.3)),
    *(Setting(2, 1000, effect) for effect in (0.0, 0.1, 0.3, 1.0)),
    *(Setting(10, 1000, effect) for effect in (0.0, 0.3)),
    *(Setting(seeds, 1000, 1.0) for seeds in (3, 5)),
    *(Setting(seeds, 30, effect) for seeds in (3, 5) for effect in (0.0, 0.3)),
    *(Setting(seeds, 1000, 0.1, shape="collapse") for seeds in (3, 5)),
    *(Setting(seeds, 1000, 1.0, shape="collapse") for seeds in (3, 5)),
)
NULL = tuple(
    Setting(seeds, items, seed_effect, 0.0)
    for seeds in (3, 5)
    for items in (100, 1000)
    for seed_effect in (0.0, 0.1, 0.3, 1.0)
)


def seed_effects(setting: Setting, count: int, rng: np.random.Generator) -> FloatArray:
    """Draw effects of seeds on ability, `[count]`, with mean 0."""
    if setting.shape == "collapse":
        return ((rng.random(count) < 0.2) * -2.5 + 0.5) * setting.seed_effect
    return rng.standard_normal(count) * setting.seed_effect


def answers(ability: FloatArray, easiness: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Draw right (1) or wrong (0), `[seeds, items]`, for the ability under each seed."""
    chance = special.expit(ability[:, None] + easiness)
    return (rng.random(chance.shape) < chance).astype(np.float64)


def expected_score(ability: FloatArray) -> FloatArray:
    """Return the mean score over all items there could be, for each ability."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    scores: FloatArray = special.expit(ability[..., None] + EASINESS * nodes) @ weights
    return scores / weights.sum()


def true_scores(setting: Setting, ability: float) -> FloatArray:
    """Return the expected score under very many seeds."""
    effects = seed_effects(setting, 20_000, np.random.default_rng(0))
    return expected_score(ability + effects - effects.mean())


def ability_of(setting: Setting) -> float:
    """Return the strategy's mean ability; without an effect, the one that scores as the target."""
    if setting.effect:
        return TARGET + setting.effect
    wanted = float(expected_score(np.array(TARGET)))
    return float(
        optimize.brentq(
            lambda ability: true_scores(setting, ability).mean() - wanted, TARGET - 2, TARGET + 2
        )
    )


def strategy(
    setting: Setting, ability: float, easiness: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Draw the answers of a strategy under new seeds, `[seeds, items]`."""
    return answers(ability + seed_effects(setting, setting.seeds, rng), easiness, rng)


def covered(setting: Setting, simulations: int, draws: int) -> tuple[float, ...]:
    """Simulate one setting and return a line's figures, after `COVERAGE_HEADING`, in percent."""
    rng = np.random.default_rng(1)
    ability = ability_of(setting)
    by_seed = true_scores(setting, ability)
    base, top = expected_score(np.array([TARGET, SOURCE]))
    truth = float(by_seed.mean() - base)
    held = held_share = shares = 0
    width = 0.0
    for _ in range(simulations):
        easiness = EASINESS * rng.standard_normal(setting.items)
        target = answers(np.array([TARGET]), easiness, rng)
        source = answers(np.array([SOURCE]), easiness, rng)
        difference = strategy(setting, ability, easiness, rng) - target
        interval = paired_evidence(difference, n_boot=draws, alpha=ALPHA).interval
        held += truth in interval
        width += interval.high - interval.low
        share = share_closed(difference, source - target, alpha=ALPHA)
        if share is not None:
            shares += 1
            held_share += truth / float(top - base) in share.interval
    rates = (by_seed.std(), truth, width / simulations, held / simulations, held_share / shares)
    return tuple(100 * float(rate) for rate in rates)


def falsely_claimed(
    reference: str, setting: Setting, simulations: int, draws: int
) -> tuple[float, ...]:
    """Simulate one setting and return a line's figures, after `NULL_HEADING`, in percent.

    Arguments:
        reference: "target", drawn once, or "trained", a strategy of the same kind with seeds of
            its own, shared by the comparisons as `sft` is.
    """
    rng = np.random.default_rng(2)
    ability = ability_of(setting)
    counts = np.zeros(3)
    for _ in range(simulations):
        easiness = EASINESS * rng.standard_normal(setting.items)
        if reference == "target":
            base = answers(np.array([TARGET]), easiness, rng)
        else:
            base = strategy(setting, ability, easiness, rng)
        differences = [strategy(setting, ability, easiness, rng) - base for _ in range(STRATEGIES)]
        p_values = [paired_evidence(each, n_boot=draws).p for each in differences]
        of_items = [exact_test(each).p for each in differences]
        counts += [min(holm(p_values)) < ALPHA, min(p_values) < ALPHA, min(holm(of_items)) < ALPHA]
    deviation = float(true_scores(setting, ability).std())
    return (100 * deviation, *(100 * counts / simulations).tolist())


Rule = Callable[[float, int], float]
"""Degrees of freedom, from the items' variance over the seeds', and the number of seeds."""


def integrated(seeds: int, share: float, alpha: float, rule: Rule) -> float:
    """Return the coverage of a rule for normal data and very many items.

    Arguments:
        share: the seeds' part of the true variance of the mean.
    """
    degrees = seeds - 1
    quantiles = stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, degrees) / degrees
    of_seeds, of_items = share * quantiles, 1.0 - share
    logs = np.linspace(-12.0, 12.0, 2000)
    critical = special.stdtrit([rule(np.exp(x), seeds) for x in logs], 1.0 - alpha / 2)
    at = np.interp(np.log(of_items / of_seeds), logs, critical)
    return float(np.mean(2 * stats.norm.cdf(at * np.sqrt(of_seeds + of_items)) - 1))


def ours(ratio: float, seeds: int) -> float:
    """The rule of `pktkit.statistics.components`."""
    return degrees_of_freedom(1.0, ratio, seeds, 10**9)


def satterthwaite(ratio: float, seeds: int) -> float:
    """Satterthwaite's rule with an items' part that is known."""
    return (seeds - 1) * (1.0 + ratio) ** 2


SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99)


def freedom_table() -> None:
    """Print the coverage of both rules, integrated."""
    line("rule", "seeds", "level %", *(f"{share:g}" for share in SHARES), heading=True)
    for name, rule in (("ours", ours), ("Satterthwaite", satterthwaite)):
        for seeds in (2, 3, 5, 10):
            for alpha in (ALPHA, ALPHA / STRATEGIES):
                found = [100 * integrated(seeds, share, alpha, rule) for share in SHARES]
                line(name, seeds, f"{100 * (1 - alpha):.1f}", *(f"{x:.1f}" for x in found))


def line(*cells: object, heading: bool = False) -> None:
    """Print a line of a table in Markdown."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if heading:
        print("|" + "--:|" * len(cells), flush=True)


COVERAGE_HEADING = (
    "seeds",
    "items",
    "seeds are",
    "seed deviation",
    "true Δ",
    "width",
    "coverage %",
    "of the share %",
)
NULL_HEADING = (
    "reference",
    "seeds",
    "items",
    "seed deviation",
    "Holm %",
    "uncorrected %",
    "items alone, Holm %",
)


def grouped(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Put settings that differ in their effect alone together."""
    groups: dict[Setting, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(attrs.evolve(setting, effect=0.0), []).append(setting)
    return list(groups.values())


def coverage_table(settings: Sequence[Setting], simulations: int, draws: int) -> None:
    """Print a line per setting, its effects side by side, and the mean coverage over all."""
    line(*COVERAGE_HEADING, heading=True)
    rates = []
    for group in grouped(settings):
        found = [covered(setting, simulations, draws) for setting in group]
        rates += [each[3] for each in found]
        same = group[0]
        figures = (" / ".join(f"{x:.1f}" for x in column) for column in zip(*found, strict=True))
        line(same.seeds, same.items, same.shape, *figures)
    print(f"\ncoverage {min(rates):.1f} to {max(rates):.1f}, mean {np.mean(rates):.2f}\n")


def null_table(settings: Sequence[Setting], simulations: int, draws: int) -> None:
    """Print a line per reference and setting."""
    line(*NULL_HEADING, heading=True)
    for reference in ("target", "trained"):
        for setting in settings:
            found = falsely_claimed(reference, setting, simulations, draws)
            line(reference, setting.seeds, setting.items, *(f"{x:.1f}" for x in found))
    print()


def main() -> None:
    """Print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=999)
    parser.add_argument("--only", choices=("coverage", "corners", "null", "freedom"))
    options = parser.parse_args()
    counts = (options.simulations, options.draws)

    def wanted(name: str) -> bool:
        return options.only in (None, name)

    error = 100 * (0.05 * 0.95 / options.simulations) ** 0.5
    print(f"{options.simulations} simulations each; standard error {error:.2f} points\n")
    for name, settings in (("coverage", COVERAGE), ("corners", CORNERS)):
        if wanted(name):
            coverage_table(settings, *counts)
    if wanted("null"):
        null_table(NULL, *counts)
    if wanted("freedom"):
        freedom_table()


if __name__ == "__main__":
    main()

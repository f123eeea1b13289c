"""The smallest claims of docs/results.md, run again."""

from __future__ import annotations

import attrs
import pytest

from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan
from pktkit.components import Strategy
from pktkit.outcomes import CellKey
from pktkit.registry import Registry
from pktkit.zoo import pair_paths

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def accuracy(registry: Registry, task: str, budget: dict, *strategies: Strategy) -> list[float]:
    """Return each strategy's accuracy on the embedded pair's test split, mean over `SEEDS`."""
    arms = tuple(attrs.evolve(s, budget={**s.budget, **budget}) for s in strategies)
    pair = PairSpec(*map(str, pair_paths()))
    runner = CellRunner(Plan(pair, arms, (task,), SEEDS), registry=registry)
    means = []
    for arm in arms:
        results = [runner.run(CellKey(arm.name, task, seed)) for seed in SEEDS]
        assert not [result.error for result in results if result.failed]
        means.append(100 * sum(result.mean for result in results) / len(SEEDS))
    return means


@pytest.mark.real  # half a minute of training
def test_on_arith_the_lens_map_beats_a_random_one(registry):
    """256 rows, 200 steps: 5.4 points over five seeds (0.9 to 10.0), 6.7 on these two."""
    lens = registry.strategy("latent-lens")
    options = {**lens.aligner.options, "placebo": "random-map"}
    placebo = attrs.evolve(
        lens, name="random-lens", aligner=attrs.evolve(lens.aligner, options=options)
    )
    ours, random = accuracy(registry, "arith", {"rows": 256, "steps": 200}, lens, placebo)
    assert ours > random


def test_on_compose_the_sources_states_of_the_item_at_hand_matter(registry):
    """256 rows, 100 steps: shuffled states cost several points against the right ones."""
    strategies = (registry.strategy("latent"), registry.strategy("shuffled"))
    right, shuffled = accuracy(registry, "compose", {"rows": 256, "steps": 100}, *strategies)
    assert right > shuffled

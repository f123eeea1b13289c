"""Seconds per training step of steering beside plain fine-tuning and output distillation.

Two pairs: the embedded one on its task `compose`, and random llamas (8 × 512 → 6 × 256, V 8000)
on sequences of 128 tokens of which 64 are supervised. Arms take turns; medians over all steps of
all turns. Seconds are of processor time, so that other work on the machine counts little; with
one thread they are wall time on an idle one. `once` is what a run spends before its first step,
readings of the source apart.

Run: OMP_NUM_THREADS=1 python benchmarks/training_step.py [STEPS] [TURNS]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import attrs

from pktkit import zoo
from pktkit.budget import Budget
from pktkit.components import Choice, Kind, Strategy
from pktkit.journal import Journal
from pktkit.pair import ModelPair, load_pair
from pktkit.probe import Probe
from pktkit.probe.readers import forward_states
from pktkit.registry import Registry
from pktkit.state_maps import Readout, identity
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import tiny_loaded
from pktkit.training import TransferData
from pktkit.values import Alignment, Interface, Space, TargetStates

Arm = Callable[[TransferData], None]


@attrs.define
class Timing:
    """Seconds of one arm: before the first step of each turn, and of every step."""

    once: list[float] = attrs.field(factory=list)
    steps: list[float] = attrs.field(factory=list)


def embedded() -> tuple[ModelPair, Task, Budget]:
    """Return the embedded pair with the task whose computation is hidden."""
    source, target = zoo.pair_paths()
    task = Registry.discover().task("compose")
    return load_pair(str(source), str(target)), task, Budget(**task.budget)


def random_llamas() -> tuple[ModelPair, Task, Budget]:
    """Return a pair of random models that is large enough for matrix products to dominate."""
    common = {"vocab": 8000, "head_dim": 64, "max_position_embeddings": 256}
    source = tiny_loaded(
        "llama", seed=1, width=512, blocks=8, heads=8, kv_heads=4, ffn=1408, **common
    )
    target = tiny_loaded(
        "llama", seed=2, width=256, blocks=6, heads=4, kv_heads=2, ffn=704, **common
    )
    source.model.requires_grad_(False)
    words = [f"t{(37 * i) % 7990}" for i in range(8000)]
    items = tuple(
        Item(f"i{i}", " ".join(words[i : i + 64]), " ".join(words[i + 64 : i + 127]))
        for i in range(0, 64)
    )
    task = Task(
        name="words",
        splits=dict.fromkeys(("train", "align", "extract", "dev", "test"), items),
        evaluator=Choice("exact-match"),
        card=TaskCard(summary="", metric="", splitting=""),
    )
    return ModelPair(source, target), task, Budget(batch_size=4, learning_rate=1e-4)


def arms(pair: ModelPair, probe: Probe, registry: Registry) -> Mapping[str, Arm]:
    """Return what to time, by name; every arm undoes what it did to the target."""

    def run(strategy: Strategy, alignment: Alignment) -> Arm:
        def arm(data: TransferData) -> None:
            assert strategy.injector is not None
            injector = registry.build(Kind.INJECTOR, strategy.injector)
            with Journal(pair.target) as journal:
                injector.inject(pair.target, alignment, data, journal)
                journal.rollback()

        return arm

    latent = registry.strategy("latent")
    assert latent.matcher is not None and latent.aligner is not None
    layer_map = registry.build(Kind.MATCHER, latent.matcher).match(pair, probe)
    semantic = registry.build(Kind.ALIGNER, latent.aligner).align(pair, layer_map, probe)
    widths = pair.target.anatomy.width, pair.source.anatomy.width
    blocks = [link.target for link in layer_map.links]
    hint = TargetStates(
        dict.fromkeys(blocks, identity),
        layer_map,
        Interface.RESIDUAL,
        space=Space.ORIGIN,
        readouts=dict.fromkeys(blocks, Readout(*widths)),
    )
    return {
        "sft": run(registry.strategy("sft"), Alignment("none", layer_map)),
        "kd": run(registry.strategy("kd"), Alignment("none", layer_map)),
        "latent": run(latent, semantic),
        "hint": run(latent, Alignment("hint", layer_map, target_states=hint)),
    }


def timed(arm: Arm, data: TransferData, timing: Timing) -> None:
    """Run an arm once; a step lasts from one report of progress to the next."""
    marks: list[float] = []
    start = time.process_time()
    arm(attrs.evolve(data, progress=lambda *_: marks.append(time.process_time())))
    steps = [after - before for before, after in itertools.pairwise(marks)]
    timing.steps.extend(steps)
    timing.once.append(max(0.0, marks[0] - start - statistics.median(steps)))


def source_forward(pair: ModelPair, data: TransferData) -> list[float]:
    """Time the source on batches of the same size."""
    split, size, times = data.probe.encoded("train"), data.budget.batch_size, []
    for i in range(10):
        rows = [data.rows[(i * size + j) % len(data.rows)] for j in range(size)]
        start = time.process_time()
        forward_states(pair.source, split, rows, range(pair.source.anatomy.n_blocks), logits=False)
        times.append(time.process_time() - start)
    return times


def measure(name: str, pair: ModelPair, task: Task, budget: Budget, steps: int, turns: int) -> None:
    """Print one pair's table."""
    probe, registry = Probe(pair, task), Registry.discover()
    rows = range(min(budget.rows or 10**9, len(probe.encoded("train").items)))
    budget = attrs.evolve(budget, steps=steps)
    data = TransferData(probe=probe, rows=tuple(rows), budget=budget, seed=0)
    chosen = arms(pair, probe, registry)
    timings = {arm: Timing() for arm in chosen}
    for arm in chosen:  # readings are taken and kernels warm before anything counts
        timed(chosen[arm], attrs.evolve(data, budget=attrs.evolve(budget, steps=3)), Timing())
    forwards: list[float] = []
    for _ in range(turns):
        for arm in chosen:
            timed(chosen[arm], data, timings[arm])
        forwards += source_forward(pair, data)
    report(name, timings, statistics.median(forwards))


def report(name: str, timings: Mapping[str, Timing], forward: float) -> None:
    """Print medians and ratios."""
    step = {arm: statistics.median(timing.steps) for arm, timing in timings.items()}
    print(f"{name}: source forward {1e3 * forward:.1f} ms")
    print(f"{'arm':8} {'ms/step':>8} {'/kd':>6} {'/(sft+source)':>14} {'once, ms':>9}")
    for arm, timing in timings.items():
        both = step["sft"] + forward
        print(
            f"{arm:8} {1e3 * step[arm]:8.2f} {step[arm] / step['kd']:6.2f} "
            f"{step[arm] / both:14.2f} {1e3 * statistics.median(timing.once):9.1f}"
        )


def main() -> None:
    """Time both pairs."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    turns = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    measure("embedded pair, compose", *embedded(), steps, turns)
    measure("8 × 512 → 6 × 256, V 8000", *random_llamas(), max(6, steps // 10), turns)


if __name__ == "__main__":
    main()

"""What `two_processes.py` scores, by two processes and by one.

A plugin of its own, with evaluators that fail in one process, or show how many items they got.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import torch
from tiny_runs import write_pair
from tiny_transfers import pair_of

from pktkit.capabilities import Capabilities
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan
from pktkit.components import Choice, Component
from pktkit.discovery.plugins import load_plugins
from pktkit.distributed.processes import ALONE, Processes
from pktkit.hookspecs import hookimpl
from pktkit.journal import Journal
from pktkit.outcomes import CellKey, ItemScore
from pktkit.pair import LoadedModel
from pktkit.permission import code_execution
from pktkit.registry import Registry
from pktkit.running.scoring import scores_of, shares_of
from pktkit.running.stages import EVALUATE, Stages
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit_benchmarks.exact_match import ExactMatch

PROGRAM = {
    "before": "globals().update({f't{i}': i for i in range(60)})\nnumber =",
    "after": "assert number % 2\n",
}
"""Runs through with every second token behind it."""

DRAWN = Choice("code-tests", {"samples": 2, "k": 2, "temperature": 2.0})

TOLD: dict[str, tuple[Choice, int]] = {
    "exact match": (Choice("exact-match"), 6),
    "likelihood": (Choice("multiple-choice"), 6),
    "drawn programs": (DRAWN, 6),
    "one prompt": (Choice("exact-match"), 1),
}
"""What two processes must score as one does: evaluator, and how many prompts."""


def asked(evaluator: Choice, prompts: int = 6, name: str = "asked") -> Task:
    """Prompts of unequal length, in no order; the first one is asked again at the end."""
    answers = ("t1", "t2", "t40", "t3")
    items = [
        Item(
            f"i{i}",
            " ".join(f"t{(3 * i + j) % 40}" for j in range(1 + (5 * i) % 7)),
            answers[i % 4],
            answers,
            PROGRAM,
        )
        for i in range(prompts)
    ]
    items.append(attrs.evolve(items[0], id="again"))
    return Task(
        name=name,
        splits={"test": tuple(items)},
        evaluator=evaluator,
        card=TaskCard(summary="", metric="", splitting=""),
        max_new_tokens=1,
    )


@attrs.frozen
class NoOptions:
    """There is nothing to set."""


@attrs.frozen
class Counting:
    """Answers every item with how many items there are: what the promise rules out."""

    Options = NoOptions
    capabilities = Capabilities(scores_items_alone=True)
    options: NoOptions = attrs.field(factory=NoOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        items = task.items(split)
        return [ItemScore(item.id, 1.0, str(len(items))) for item in items]


class CountingAll(Counting):
    """Promises nothing."""

    capabilities = Capabilities()


class Stumbling(ExactMatch):
    """Runs out of memory at the first item of the second process's share."""

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        whole = asked(Choice("stumbling")).items("test")
        if whole[shares_of(whole, 2)[1][0]] in task.items(split):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().evaluate(model, task, split)


def stumbling() -> Task:
    """Return the task at which one process fails."""
    return asked(Choice("stumbling"), name="stumbling")


def sound() -> Task:
    """Return the task that comes after it."""
    return asked(Choice("exact-match"), name="sound")


@hookimpl
def pktkit_evaluators() -> list[Component]:
    return [
        Component("counting", f"{__name__}:Counting"),
        Component("counting-all", f"{__name__}:CountingAll"),
        Component("stumbling", f"{__name__}:Stumbling"),
    ]


@hookimpl
def pktkit_tasks() -> list[Component]:
    return [
        Component("stumbling", f"{__name__}:stumbling"),
        Component("sound", f"{__name__}:sound"),
    ]


def scored(processes: Processes, folder: Path) -> dict[str, object]:
    """Score all that is scored by two processes, and what one makes of it."""
    registry = Registry(load_plugins(extra={"scored": sys.modules[__name__]}))
    model = pair_of("llama").target

    def scores(task: Task, together: Processes) -> list[dict[str, Any]]:
        stages = Stages(CellKey("target", task.name, 0), registry, Journal(model))
        with code_execution():
            found = scores_of(model, task, "test", stages, together)
        assert stages.seconds[EVALUATE] > 0
        return [attrs.asdict(score) for score in found]

    def counted(evaluator: str) -> list[str]:
        return [score["prediction"] for score in scores(asked(Choice(evaluator)), processes)]

    found: dict[str, object] = {}
    for name, (evaluator, prompts) in TOLD.items():
        task = asked(evaluator, prompts)
        found[name] = {
            "together": processes.everyones(scores(task, processes)),
            "alone": scores(task, ALONE),
        }
    found["shared"] = counted("counting")
    found["not promised"] = counted("counting-all")
    if not processes.main:
        with torch.no_grad():
            model.anatomy.embedding.weight[3] += 1e-3
    found["other weights"] = counted("counting")
    found["cells"] = cells(processes, folder, registry)
    return found


def cells(processes: Processes, folder: Path, registry: Registry) -> list[list[dict[str, object]]]:
    """Run a cell in which one process fails, and one after it; return every process's results."""
    processes.on_main(lambda: write_pair(folder))
    spec = PairSpec(str(folder / "source"), str(folder / "target"))
    plan = Plan(spec, (registry.strategy("target"),), ("stumbling", "sound"), (0,))
    runner = CellRunner(plan, registry=registry, processes=processes)
    results = [runner.run(key) for key in plan.cells()]
    return processes.everyones(
        [{"error": result.error, "scores": len(result.scores)} for result in results]
    )

"""Scoring a split with a task's own evaluator: in one process, or in the shares of several."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import structlog

from pktkit.capabilities import capabilities_of
from pktkit.components import Kind
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import PktkitError
from pktkit.isolation import reworded
from pktkit.outcomes import ItemScore
from pktkit.running.boundary import checked_scores
from pktkit.running.stages import EVALUATE, Stages
from pktkit.tasks.jsonl_rows import normalised

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

log = structlog.get_logger(__name__)

Shares = Sequence[tuple[int, ...]]
"""For each process, which items of a split it scores, by their places in the split."""


def scores_of(
    model: LoadedModel,
    task: Task,
    split: str,
    stages: Stages,
    processes: Processes = ALONE,
) -> tuple[ItemScore, ...]:
    """Score a model on one split of a task.

    Of several processes all call this. Each scores its share where the evaluator promises
    `scores_items_alone` and all hold the same model; otherwise process 0 scores alone.

    Arguments:
        model: the same in every process.
        task: names the evaluator.
        split: one of the task's.
        stages: runs the evaluator, names it in errors and keeps the time it took, waiting for
            the others included.
        processes: that score together.

    Returns:
        One score per item, in the split's order, in every process.

    Raises:
        PktkitError: the evaluator failed, in this process or in another; all processes raise it.
    """

    def score(part: Task) -> tuple[ItemScore, ...]:
        return stages.run(
            EVALUATE,
            Kind.EVALUATOR,
            task.evaluator,
            lambda evaluator: checked_scores(
                evaluator.evaluate(model, part, split), part.items(split)
            ),
            shown=lambda scores: f"{len(scores)} scores",
        )

    if not processes.several:
        return score(task)
    start = time.perf_counter()
    items = task.items(split)
    if _may_be_shared(task, split, stages, processes):
        shares = shares_of(items, processes.count)
    else:
        shares = [tuple(range(len(items))), *[()] * (processes.count - 1)]
    found = _put_together(score, task, split, shares, processes)
    stages.seconds[EVALUATE] = time.perf_counter() - start
    return found


def shares_of(items: Sequence[Item], count: int) -> list[tuple[int, ...]]:
    """Deal items out, so that every share has as many, and as many long ones.

    Items whose prompts read alike stay together: how an answer is drawn depends on how often the
    same prompt stood before it, see `pktkit.inference.sampling`.

    Arguments:
        items: of the split.
        count: how many shares; some are empty where there are fewer different prompts.

    Returns:
        For each share the places of its items, ascending.
    """
    alike: dict[str, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        alike[normalised(item.prompt)].append(place)
    shares: list[list[int]] = [[] for _ in range(count)]
    order = sorted(alike, key=lambda prompt: (len(alike[prompt]), len(prompt)), reverse=True)
    for prompt in order:
        min(shares, key=len).extend(alike[prompt])
    return [tuple(sorted(share)) for share in shares]


def part_of(task: Task, split: str, places: Sequence[int]) -> Task:
    """Return a task whose split has the items at some places only."""
    items = task.items(split)
    return attrs.evolve(
        task, splits={**task.splits, split: tuple(items[place] for place in places)}
    )


def _may_be_shared(task: Task, split: str, stages: Stages, processes: Processes) -> bool:
    """Whether scores do not depend on which process scores what; all processes answer alike."""
    evaluator = stages.registry.value(stages.registry.get(Kind.EVALUATOR, task.evaluator.name))
    promised = capabilities_of(evaluator).scores_items_alone
    weights = "" if stages.journal is None else stages.journal.digest
    answers = processes.everyones((promised, task.comparability(split)["key"], weights))
    if not all(each[0] for each in answers):
        return False
    if any(answer != answers[0] for answer in answers):
        what = "items" if len({key for _, key, _ in answers}) > 1 else "weights"
        log.warning(f"processes differ in their {what}, process 0 scores alone", task=task.name)
        return False
    return True


def _put_together(
    score: Callable[[Task], tuple[ItemScore, ...]],
    task: Task,
    split: str,
    shares: Shares,
    processes: Processes,
) -> tuple[ItemScore, ...]:
    """Score this process's share and exchange; an error in one share is raised by all.

    Raises:
        PktkitError: of the first process that has one.
    """
    own = shares[processes.rank]
    scores: tuple[ItemScore, ...] = ()
    failure: PktkitError | None = None
    try:
        scores = score(part_of(task, split, own)) if own else ()
    except PktkitError as error:
        where = f"process {processes.rank} of {processes.count}"
        failure = reworded(error, f"{where}: {error}")
    outcomes = processes.everyones((scores, failure))
    failed = next((error for _, error in outcomes if error is not None), None)
    if failed is not None:
        raise failed
    placed = {
        place: found
        for places, (part, _) in zip(shares, outcomes, strict=True)
        for place, found in zip(places, part, strict=True)
    }
    return tuple(placed[place] for place in range(len(placed)))

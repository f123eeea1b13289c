"""Laws of evaluators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch

from pktkit.errors import PktkitError
from pktkit.inference.generation import generate
from pktkit.outcomes import ItemScore
from pktkit.pair import LoadedModel
from pktkit.permission import code_execution
from pktkit.running.scoring import part_of, shares_of
from pktkit.tasks.base import Item, Task
from pktkit.testing.laws import common
from pktkit.testing.laws.common import Observed, Test
from pktkit.testing.scenes import Opened, Scene, on_scenes
from pktkit.testing.subject import Subject

SPLIT = "test"


def task_of(subject: Subject, opened: Opened) -> Task:
    """Return the author's task, or the scene's, half of it answered as the model would."""
    return subject.task or with_own_answers(opened.pair.target, opened.task)


def with_own_answers(model: LoadedModel, task: Task) -> Task:
    """Give every second item the model's own answer, so that some scores are not zero."""
    items = list(task.items(SPLIT))
    said = generate(model, [item.prompt for item in items], max_new_tokens=task.max_new_tokens)
    for index in range(0, len(items), 2):
        answer = said[index].strip() or items[index].answer
        choices = tuple(dict.fromkeys((answer, *items[index].choices)))
        items[index] = attrs.evolve(items[index], answer=answer, choices=choices)
    return _with(task, items)


def evaluated(subject: Subject, opened: Opened, task: Task) -> list[ItemScore]:
    """Run the evaluator, and check that it returns scores.

    Raises:
        LawViolation: it returns something else.
    """
    with code_execution():  # what a tiny random model writes, asked for by the author
        found = list(subject.build().evaluate(opened.pair.target, task, SPLIT))
    strange = [score for score in found if not isinstance(score, ItemScore)]
    subject.require(not strange, f"it returned {strange[:1]}, expected ItemScore values.")
    return found


def observe(subject: Subject, opened: Opened) -> Observed:
    """Observe scores and predictions in the split's order."""
    return observed(evaluated(subject, opened, task_of(subject, opened)))


def observed(scores: Sequence[ItemScore]) -> Observed:
    """Observe given scores."""
    values = torch.tensor([float(score.score) for score in scores], dtype=torch.float64)
    said = {score.item: score.prediction for score in scores}
    return Observed({"scores": values}, said, [attrs.asdict(score) for score in scores])


def one_score_per_item(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        task = task_of(subject, opened)
        found = [score.item for score in evaluated(subject, opened, task)]
        expected = [item.id for item in task.items(SPLIT)]
        subject.require(
            found == expected, f"{scene}: scores are of items {found}, the split has {expected}."
        )

    on_scenes(subject, law)


def bounded_scores(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        for score in evaluated(subject, opened, task_of(subject, opened)):
            subject.require(
                math.isfinite(score.score) and 0 <= score.score <= 1,
                f"{scene}: item '{score.item}' scores {score.score}, expected 0 to 1.",
            )

    on_scenes(subject, law)


def degenerate_data(subject: Subject) -> None:
    """Test the law of that name: one item, and items that are all alike."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        task = task_of(subject, opened)
        first, count = task.items(SPLIT)[0], len(task.items(SPLIT))
        alike = [attrs.evolve(first, id=f"{first.id}-{i}") for i in range(count)]
        for what, items in (("one item", [first]), ("equal items", alike)):
            try:
                found = evaluated(subject, opened, _with(task, items))
            except PktkitError:
                continue
            for score in found:
                subject.require(
                    math.isfinite(score.score),
                    f"{scene}, {what}: item '{score.item}' scores {score.score}.",
                )

    on_scenes(subject, law)


def padding(subject: Subject) -> None:
    """Test the law of that name: every item alone."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        task = task_of(subject, opened)
        together = observed(evaluated(subject, opened, task))
        alone = [
            score
            for item in task.items(SPLIT)
            for score in evaluated(subject, opened, _with(task, [item]))
        ]
        common.require_alike(
            subject, scene, together, observed(alone), what="scoring every item alone", near=1e-5
        )

    on_scenes(subject, law)


def scores_follow_items(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        task = task_of(subject, opened)
        usual = evaluated(subject, opened, task)
        other = evaluated(subject, opened, common.reordered(task))
        by_item = {score.item: score for score in other}
        back = [by_item[score.item] for score in usual if score.item in by_item]
        common.require_alike(
            subject, scene, observed(usual), observed(back), what="another order", near=1e-5
        )

    on_scenes(subject, law)


def items_alone(subject: Subject) -> None:
    """Test the law of that name: in shares as processes get them, a prompt standing twice."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        task = task_of(subject, opened)
        items = [*task.items(SPLIT), attrs.evolve(task.items(SPLIT)[0], id="asked-again")]
        task = _with(task, items)
        usual = observed(evaluated(subject, opened, task))
        for count in (2, 3):
            placed = {
                place: score
                for places in shares_of(items, count)
                if places
                for place, score in zip(
                    places, evaluated(subject, opened, part_of(task, SPLIT, places)), strict=True
                )
            }
            apart = observed([placed[place] for place in range(len(items))])
            what = f"scoring {count} parts"
            common.require_alike(subject, scene, usual, apart, what=what, near=1e-5)

    on_scenes(subject, law)


def _with(task: Task, items: Sequence[Item]) -> Task:
    return attrs.evolve(task, splits={**task.splits, SPLIT: tuple(items)})


TESTS: Mapping[str, Test] = {
    "options-round-trip": common.options_round_trip,
    "deterministic": common.deterministic(observe),
    "target-unchanged": common.unchanged(observe, "target"),
    "serialisable": common.serialisable(observe),
    "degenerate-data": degenerate_data,
    "padding": padding,
    "one-score-per-item": one_score_per_item,
    "bounded-scores": bounded_scores,
    "scores-follow-items": scores_follow_items,
    "items-alone": items_alone,
}

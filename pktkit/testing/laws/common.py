"""Laws that bind several kinds: what a component makes of a scene is observed and compared."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from pktkit.components import Choice, Strategy
from pktkit.errors import PktkitError
from pktkit.journal import fingerprint
from pktkit.options import build_options, describe_options
from pktkit.pair import LoadedModel
from pktkit.recipe import dump_recipe, parse_recipe
from pktkit.tasks.base import Task
from pktkit.testing.scenes import Opened, Scene, on_scenes, other_numbers, turnable, words
from pktkit.testing.subject import Subject

TOLERANCE = 2e-3
"""Relative; readings in single precision differ in the last bits between batch shapes, and a
regression passes the difference on."""


@attrs.frozen(eq=False)
class Observed:
    """What a component made of a scene.

    Arguments:
        values: what can be compared by value, by name.
        plain: what must be equal: links, ids.
        report: what goes into the report.
    """

    values: Mapping[str, Tensor] = attrs.field(factory=dict)
    plain: Any = None
    report: Any = None


Observe = Callable[[Subject, Opened], Observed]
"""Runs a component on an opened scene."""

Test = Callable[[Subject], None]


def options_round_trip(subject: Subject) -> None:
    """Test the law of that name."""
    for field in describe_options(type(subject.options)):
        subject.require(bool(field.doc), f"option '{field.name}' has no documentation.")
    given = attrs.asdict(subject.options, recurse=False)
    written = dump_recipe(Strategy("kit", matcher=Choice("kit", given)))
    read = parse_recipe(written).matcher
    assert read is not None
    again = build_options(type(subject.options), read.options, subject.name)
    subject.require(again == subject.options, f"{subject.options} is read back as {again}.")


def deterministic(observe: Observe) -> Test:
    """Return the test of the law of that name for components observed like this."""

    def law(subject: Subject, scene: Scene) -> None:
        seen = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            random.seed(seed)
            seen.append(observe(subject, scene.open()))
        require_alike(subject, scene, *seen, what="run twice")

    def test(subject: Subject) -> None:
        before = torch.get_rng_state(), random.getstate()
        try:
            on_scenes(subject, lambda scene: law(subject, scene))
        finally:
            torch.set_rng_state(before[0])
            random.setstate(before[1])

    return test


def unchanged(observe: Observe, side: str) -> Test:
    """Return the test that the model on one side (`source`, `target`) is left as it was."""

    def law(subject: Subject, scene: Scene) -> None:
        opened = scene.open()
        model: LoadedModel = getattr(opened.pair, side)
        before = state_of(model)
        observe(subject, opened)
        changed = differences(before, state_of(model))
        subject.require(not changed, f"{scene}: it changed {changed} of the {side}.")

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def serialisable(observe: Observe) -> Test:
    """Return the test of the law of that name."""

    def law(subject: Subject, scene: Scene) -> None:
        report = observe(subject, scene.open()).report
        try:
            json.dumps(report, allow_nan=False)
        except (TypeError, ValueError) as error:
            subject.require(False, f"{scene}: its report is not JSON: {error}. It is {report!r}.")

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def degenerate_data(observe: Observe) -> Test:
    """Return the test of the law of that name: finite or refused, on every degenerate scene."""

    def law(subject: Subject, scene: Scene) -> None:
        for what, degenerate, silenced in _degenerate(scene):
            opened = degenerate.open()
            if silenced:
                _silence(opened.pair.source)
            try:
                seen = observe(subject, opened)
            except PktkitError:
                continue
            for name, value in seen.values.items():
                subject.require(
                    bool(value.isfinite().all()), f"{scene}, {what}: {name} is not finite."
                )

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def padding(observe: Observe) -> Test:
    """Return the test of the law of that name."""

    def law(subject: Subject, scene: Scene) -> None:
        alone = attrs.evolve(scene, batch_size=1)
        seen = observe(subject, scene.open()), observe(subject, alone.open())
        require_alike(subject, scene, *seen, what="reading items one at a time", near=TOLERANCE)

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def item_order(observe: Observe) -> Test:
    """Return the test of the law of that name."""

    def law(subject: Subject, scene: Scene) -> None:
        other = attrs.evolve(scene, task=reordered(scene.task))
        seen = observe(subject, scene.open()), observe(subject, other.open())
        require_alike(subject, scene, *seen, what="reordering the items", near=TOLERANCE)

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def vocabulary_permutation(observe: Observe) -> Test:
    """Return the test of the law of that name; axes of the vocabulary's size are put in order."""

    def law(subject: Subject, scene: Scene) -> None:
        numbers = other_numbers()
        usual = observe(subject, scene.open())
        other = observe(subject, attrs.evolve(scene, numbers=numbers).open())
        back = {name: _in_order(value, numbers) for name, value in other.values.items()}
        other = attrs.evolve(other, values=back)
        require_alike(subject, scene, usual, other, what="renumbering tokens", near=TOLERANCE)

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene))


def same_when_turned(observe: Observe) -> Test:
    """Return the test that turning both residual streams changes nothing."""

    def law(subject: Subject, scene: Scene) -> None:
        turned = attrs.evolve(scene, turned=True)
        seen = observe(subject, scene.open()), observe(subject, turned.open())
        require_alike(subject, scene, *seen, what="turning the residual streams", near=TOLERANCE)

    return lambda subject: on_scenes(subject, lambda scene: law(subject, scene), iter([turnable()]))


def require_alike(
    subject: Subject,
    scene: Scene,
    first: Observed,
    second: Observed,
    *,
    what: str,
    near: float = 0.0,
) -> None:
    """Require that two observations agree: bit for bit, or within a relative distance.

    Raises:
        LawViolation: they do not; names the first difference and how large it is.
    """
    subject.require(
        first.plain == second.plain, f"{scene}: {what} gives {second.plain}, not {first.plain}."
    )
    subject.require(
        first.values.keys() == second.values.keys(),
        f"{scene}: {what} gives {sorted(second.values)}, not {sorted(first.values)}.",
    )
    for name, value in first.values.items():
        found = distance(value, second.values[name])
        subject.require(
            found <= near,
            f"{scene}: {what} moves {name} by {found:.3g} of its size, allowed {near:g}.",
        )


def distance(expected: Tensor, found: Tensor) -> float:
    """Return `‖a − b‖ / ‖a‖` in fp64; infinite for other shapes or values that are not finite."""
    if expected.shape != found.shape:
        return float("inf")
    if torch.equal(expected, found):
        return 0.0
    difference = (expected.double() - found.double()).norm()
    size = expected.double().norm()
    relative = float(difference / size) if float(size) else float("inf")
    return relative if relative == relative else float("inf")


def state_of(model: LoadedModel) -> dict[str, Any]:
    """Describe everything of a model that must not change unnoticed, by name."""
    found: dict[str, Any] = {}
    for name, module in model.model.named_modules():
        kinds = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
        hooks = tuple(map(len, kinds))
        found[f"module '{name}'"] = (type(module), tuple(sorted(vars(module))), hooks)
        found[f"mode of '{name}'"] = module.training
    for name, parameter in model.model.named_parameters():
        found[f"parameter '{name}'"] = (fingerprint(parameter), parameter.dtype)
        found[f"flag of '{name}'"] = parameter.requires_grad
        found[f"gradient of '{name}'"] = parameter.grad is not None
    for name, buffer in model.model.named_buffers():
        found[f"buffer '{name}'"] = fingerprint(buffer)
    return found


def differences(before: Mapping[str, Any], after: Mapping[str, Any], most: int = 3) -> str:
    """Name what differs, the first few; empty if nothing does."""
    names = [
        name
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    ]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def reordered(task: Task) -> Task:
    """Return the task with the items of every split from the last to the first."""
    splits = {name: tuple(reversed(items)) for name, items in task.splits.items()}
    return attrs.evolve(task, splits=splits)


def _degenerate(scene: Scene) -> list[tuple[str, Scene, bool]]:
    """Return what is odd about each degenerate scene, the scene, and whether the source is mute."""
    ordinary = scene.task
    few = {split: items[:2] for split, items in words(length=1).splits.items()}
    equal = {
        split: tuple(attrs.evolve(items[0], id=item.id) for item in items)
        for split, items in ordinary.splits.items()
    }
    return [
        ("one-token answers of two items", _with(scene, few), False),
        ("equal items", _with(scene, equal), False),
        ("a source whose weights are zero", scene, True),
    ]


def _with(scene: Scene, splits: Mapping[str, Any]) -> Scene:
    return attrs.evolve(scene, task=attrs.evolve(scene.task, splits=splits))


def _silence(model: LoadedModel) -> None:
    """Set all of a model's weights to zero: every state and every logit is zero."""
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.zero_()


def _in_order(value: Tensor, numbers: tuple[int, ...]) -> Tensor:
    """Put every axis of the vocabulary's size back into the usual numbering."""
    moved = torch.tensor(numbers)
    for axis, size in enumerate(value.shape):
        if size == len(numbers):
            value = value.index_select(axis, moved)
    return value

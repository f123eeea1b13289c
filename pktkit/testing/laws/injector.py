"""Laws of knowledge injectors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from pktkit.activations.recording import forward, record
from pktkit.budget import Budget
from pktkit.encoding import collate, padding_id
from pktkit.errors import JournalError, PktkitError, UsageError
from pktkit.journal import Journal
from pktkit.pair import LoadedModel, load_model, save_model
from pktkit.probe import Probe
from pktkit.tasks.base import Task
from pktkit.testing.laws import common
from pktkit.testing.laws.common import Observed, Test, differences, state_of
from pktkit.testing.scenes import Opened, Scene, on_scenes, words
from pktkit.testing.subject import Subject
from pktkit.testing.synthetic import alignment_of
from pktkit.training import TransferData
from pktkit.values import Alignment, Injection

BUDGET = Budget(steps=4, batch_size=2, learning_rate=1e-2)
SEED = 5


def injected(
    subject: Subject,
    opened: Opened,
    *,
    alignment: Alignment | None = None,
    journal: Journal | None = None,
    options: Mapping[str, Any] | None = None,
) -> Injection:
    """Run the injector on an alignment of every form, and check what it returns.

    Raises:
        LawViolation: it returns no `Injection`.
        JournalError: it changed the target behind the journal's back.
    """
    target = opened.pair.target
    given = alignment or alignment_of(opened.pair, opened.layer_map, seed=0)
    with journal or Journal(target) as kept:
        found = subject.build(**(options or {})).inject(target, given, data_of(opened.probe), kept)
    subject.require(
        isinstance(found, Injection), f"it returned {type(found).__name__}, expected Injection."
    )
    return found


def data_of(probe: Probe) -> TransferData:
    """Give a run every other training row."""
    rows = tuple(range(0, len(probe.encoded("train").items), 2))
    return TransferData(probe, rows, BUDGET, SEED)


def parameters_of(model: LoadedModel) -> dict[str, Tensor]:
    """Copy all parameters by name."""
    return {name: p.detach().clone() for name, p in model.model.named_parameters()}


def observe(subject: Subject, opened: Opened) -> Observed:
    """Observe the target's parameters and the report."""
    found = injected(subject, opened)
    return Observed(parameters_of(opened.pair.target), None, attrs.asdict(found))


def journalled(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        before = tree_of(opened.pair.target)
        try:
            injected(subject, opened)
        except JournalError as error:
            subject.require(False, f"{scene}: {error}")
        changed = differences(before, tree_of(opened.pair.target))
        subject.require(not changed, f"{scene}: it leaves {changed} changed.")

    on_scenes(subject, law)


def tree_of(model: LoadedModel) -> dict[str, Any]:
    """Describe what must be the same after an injection: all but the parameters' values."""
    return {name: v for name, v in state_of(model).items() if not name.startswith("parameter")}


def rollback(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        target = opened.pair.target
        before, journal = state_of(target), Journal(target)
        injected(subject, opened, journal=journal)
        journal.rollback()
        changed = differences(before, state_of(target))
        subject.require(not changed, f"{scene}: after a rollback, {changed} differ.")

    on_scenes(subject, law)


def strength_zero(subject: Subject) -> None:
    """Test the law of that name."""
    option = subject.capabilities.strength_option
    assert option is not None

    def law(scene: Scene) -> None:
        opened = scene.open()
        before = state_of(opened.pair.target)
        injected(subject, opened, options={option: 0.0})
        changed = differences(before, state_of(opened.pair.target))
        subject.require(not changed, f"{scene}: with {option} 0 it changes {changed}.")

    on_scenes(subject, law)


def empty_alignment(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        before, target = state_of(opened.pair.target), opened.pair.target
        try:
            injected(subject, opened, alignment=Alignment("none", opened.layer_map))
        except PktkitError:
            changed = differences(before, state_of(target))
            subject.require(not changed, f"{scene}: it refuses, but leaves {changed} changed.")
        except Exception as error:
            subject.require(
                False,
                f"{scene}: an empty alignment ends in {type(error).__name__}: {error}; expected a "
                "PktkitError.",
            )

    on_scenes(subject, law)


def within_budget(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        found = injected(subject, scene.open())
        counts = found.steps, found.tokens, found.trainable_parameters
        subject.require(
            found.steps <= BUDGET.steps and min(counts) >= 0,
            f"{scene}: it reports {found.steps} steps, {found.tokens} tokens and "
            f"{found.trainable_parameters} trainable parameters; the budget has {BUDGET.steps} "
            "steps.",
        )

    on_scenes(subject, law)


def only_its_rows(subject: Subject) -> None:
    """Test the law of that name: every other row is given, the rest say something else."""

    def law(scene: Scene) -> None:
        other = attrs.evolve(scene, task=with_other_rows(scene.task))
        seen = observe(subject, scene.open()), observe(subject, other.open())
        common.require_alike(
            subject, scene, *seen, what="changing rows that it was not given", near=1e-5
        )

    on_scenes(subject, law)


def with_other_rows(task: Task) -> Task:
    """Let every second training row say something else, in as many words."""
    strange = words({"train": 1000}, length=2).items("train")[500:]
    rows = list(task.items("train"))
    for row in range(1, len(rows), 2):
        lengths = len(rows[row].prompt.split()), len(rows[row].answer.split())
        rows[row] = next(
            attrs.evolve(item, id=rows[row].id)
            for item in strange[row * 12 :]
            if (len(item.prompt.split()), len(item.answer.split())) == lengths
        )
    return attrs.evolve(task, splits={**task.splits, "train": tuple(rows)})


def dtype_device(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            opened = attrs.evolve(scene, dtype=dtype).open()
            injected(subject, opened)
            for name, parameter in opened.pair.target.model.named_parameters():
                subject.require(
                    parameter.dtype == dtype and parameter.device.type == "cpu",
                    f"{scene} in {dtype}: parameter '{name}' is {parameter.dtype} on "
                    f"{parameter.device.type} afterwards.",
                )

    on_scenes(subject, law)


def finite(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            seen = observe(subject, attrs.evolve(scene, dtype=dtype).open())
            for name, value in seen.values.items():
                subject.require(
                    bool(value.isfinite().all()),
                    f"{scene} in {dtype}: parameter '{name}' is not finite.",
                )

    on_scenes(subject, law)


def save_load(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        injected(subject, opened)
        require_saved_alike(subject, scene, opened)

    on_scenes(subject, law)


def require_saved_alike(subject: Subject, scene: Scene, opened: Opened) -> None:
    """Save the target, load it, and require equal parameters and logits.

    Raises:
        LawViolation: they differ, or what was written does not read back.
    """
    target = opened.pair.target
    with tempfile.TemporaryDirectory() as folder:
        try:
            loaded = load_model(str(save_model(target, Path(folder) / "model")))
        except UsageError as error:
            subject.require(False, f"{scene}: {error}")
            raise
        for name, value in parameters_of(target).items():
            same = torch.equal(value, loaded.model.get_parameter(name))
            subject.require(same, f"{scene}: parameter '{name}' is another one when loaded.")
        said = [logits_of(model, opened) for model in (target, loaded)]
        subject.require(
            torch.equal(*said),
            f"{scene}: the loaded model says something else, by "
            f"{float((said[0] - said[1]).abs().max()):.3g} in logits.",
        )


def logits_of(model: LoadedModel, opened: Opened) -> Tensor:
    """Return logits of the first training rows."""
    batch = collate(opened.probe.encoded("train"), range(2), pad_id=padding_id(model.tokenizer))
    with torch.no_grad(), record(model.anatomy, (), batch):
        return forward(model.model, batch)


TESTS: Mapping[str, Test] = {
    "options-round-trip": common.options_round_trip,
    "deterministic": common.deterministic(observe),
    "source-unchanged": common.unchanged(observe, "source"),
    "serialisable": common.serialisable(observe),
    "degenerate-data": common.degenerate_data(observe),
    "dtype-device": dtype_device,
    "finite": finite,
    "journalled": journalled,
    "rollback": rollback,
    "strength-zero": strength_zero,
    "empty-alignment": empty_alignment,
    "within-budget": within_budget,
    "only-its-rows": only_its_rows,
    "save-load": save_load,
}

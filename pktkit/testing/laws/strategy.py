"""Laws of strategies: what holds of a whole transfer, whatever its stages."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from pktkit.budget import Budget
from pktkit.components import Kind, Strategy
from pktkit.errors import JournalError, PktkitError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.recipe import dump_recipe, parse_recipe
from pktkit.registry import Registry
from pktkit.running.stages import seeded
from pktkit.testing.laws import common
from pktkit.testing.laws.common import Observed, Test, differences, state_of
from pktkit.testing.laws.injector import (
    BUDGET,
    SEED,
    parameters_of,
    require_saved_alike,
    tree_of,
)
from pktkit.testing.scenes import Opened, Scene, on_scenes
from pktkit.testing.subject import NotApplicable, Subject
from pktkit.transfer import Transferred, run_transfer, transfer_data

_STAGES = (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR)


def registry_of(subject: Subject) -> Registry:
    """Return the registry that the strategy's components come from."""
    return subject.registry or Registry.discover()


def transferred(subject: Subject, opened: Opened, *, journal: Journal | None = None) -> Transferred:
    """Run the strategy on a short budget.

    Raises:
        NotApplicable: it has no stages.
    """
    strategy: Strategy = subject.cls
    if strategy.injector is None:
        raise NotApplicable("it changes nothing: it has no injector")
    fields = {**attrs.asdict(BUDGET), **strategy.budget, "steps": BUDGET.steps, "rows": 6}
    budget = build_options(Budget, fields, f"budget of strategy '{strategy.name}'")
    data = transfer_data(opened.probe, budget, SEED)
    kept = journal or Journal(opened.pair.target)
    with kept:
        return run_transfer(
            strategy,
            opened.pair,
            opened.probe,
            data,
            kept,
            registry_of(subject),
            task=opened.task.name,
        )


def observe(subject: Subject, opened: Opened) -> Observed:
    """Observe the target's parameters, the links and the report."""
    found = transferred(subject, opened)
    report = {
        "alignment": {} if found.alignment is None else dict(found.alignment.diagnostics),
        "injection": None if found.injection is None else attrs.asdict(found.injection),
    }
    return Observed(parameters_of(opened.pair.target), str(found.layer_map), report)


def well_formed(subject: Subject) -> None:
    """Test the law of that name."""
    strategy, registry = subject.cls, registry_of(subject)
    try:
        for kind in _STAGES:
            choice = getattr(strategy, kind.value)
            if choice is not None:
                registry.build(kind, seeded(registry, kind, choice, SEED))
        build_options(Budget, strategy.budget, f"budget of strategy '{strategy.name}'")
    except PktkitError as error:
        subject.require(False, str(error))
    subject.require(
        strategy.aligner is None or strategy.injector is not None,
        "it aligns, but no injector takes the alignment.",
    )
    subject.require(bool(strategy.summary), "it has no summary for listings.")


def recipe_round_trip(subject: Subject) -> None:
    """Test the law of that name."""
    written = dump_recipe(subject.cls)
    read = parse_recipe(written)
    subject.require(dump_recipe(read) == written, f"its recipe reads back as {read}.")
    subject.require(
        _comparable(read) == _comparable(subject.cls), f"its recipe reads back as {read}."
    )


def _comparable(strategy: Strategy) -> dict[str, object]:
    """Return a strategy's fields, options as a recipe writes them."""
    return {
        **attrs.asdict(strategy, recurse=False),
        **{
            kind.value: choice and (choice.name, _plain(choice.options))
            for kind in _STAGES
            for choice in [getattr(strategy, kind.value)]
        },
        "budget": _plain(strategy.budget),
    }


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    """Compare sequences as lists: YAML has no other."""
    return {
        name: list(value) if isinstance(value, (tuple, list)) else value
        for name, value in options.items()
    }


def journalled(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        before = tree_of(opened.pair.target)
        try:
            transferred(subject, opened)
        except JournalError as error:
            subject.require(False, f"{scene}: {error}")
        changed = differences(before, tree_of(opened.pair.target))
        subject.require(not changed, f"{scene}: it leaves {changed} changed.")

    on_scenes(subject, law)


def rollback(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        target = opened.pair.target
        before, journal = state_of(target), Journal(target)
        transferred(subject, opened, journal=journal)
        journal.rollback()
        changed = differences(before, state_of(target))
        subject.require(not changed, f"{scene}: after a rollback, {changed} differ.")

    on_scenes(subject, law)


def save_load(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        transferred(subject, opened)
        require_saved_alike(subject, scene, opened)

    on_scenes(subject, law)


TESTS: Mapping[str, Test] = {
    "deterministic": common.deterministic(observe),
    "source-unchanged": common.unchanged(observe, "source"),
    "serialisable": common.serialisable(observe),
    "journalled": journalled,
    "rollback": rollback,
    "save-load": save_load,
    "well-formed": well_formed,
    "recipe-round-trip": recipe_round_trip,
}

"""One transfer, saved: the strategy run inside a journal, what it made written with its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.distributed.processes import ALONE, Processes
from pktkit.journal import Journal
from pktkit.outcomes import CellKey
from pktkit.outputs.lineage import model_facts, software
from pktkit.outputs.saving import Saving, save
from pktkit.outputs.scores import before_and_after, score
from pktkit.recipe import dump_recipe
from pktkit.transfer import Transferred, budget_for, run_transfer, transfer_data

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.components import Strategy
    from pktkit.probe import Probe
    from pktkit.registry import Registry


def transfer_and_save(
    strategy: Strategy,
    probe: Probe,
    registry: Registry,
    *,
    seed: int,
    out: Path,
    processes: Processes = ALONE,
    saving: Saving | None = None,
    split: str | None = None,
    comparison: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Transfer inside a journal, save and verify; the record lies beside the weights.

    Of several processes all transfer and one saves.

    Arguments:
        saving: in which form; None for a checkpoint.
        split: the target is scored on it before and after; None leaves that out.
        comparison: further scores for the model card.

    Returns:
        What was done, with `transfer.json` as it was written in the process that wrote it.

    Raises:
        PktkitError: what a stage raised, or as `save`.
    """
    pair, task = probe.pair, probe.task
    budget = budget_for(task, strategy)
    terms = _terms(strategy, probe, seed, budget, processes)
    key = CellKey(strategy.name, task.name, seed)
    before = score(pair.target, task, split, registry, key, processes) if split else ()
    data = transfer_data(probe, budget, seed, processes=processes)
    with Journal(pair.target) as journal:
        done = run_transfer(strategy, pair, probe, data, journal, registry, task=task.name)
        changed = journal.changed()
    scores: dict[str, Any] = {"comparison": list(comparison)} if comparison else {}
    if split:
        after = score(pair.target, task, split, registry, key, processes)
        scores["own"] = before_and_after(task, split, before, after)
    record = {**terms, **_effects(done, changed, scores)}
    how = saving or Saving()
    written: dict[str, Any] = {}
    processes.on_main(lambda: written.update(save(pair.target, journal, out, how, record)))
    return written or record


def _terms(
    strategy: Strategy, probe: Probe, seed: int, budget: Budget, processes: Processes
) -> dict[str, Any]:
    """Return what is transferred into what and on which terms, before anything is changed."""
    pair = probe.pair
    return {
        "strategy": attrs.asdict(strategy, filter=lambda field, value: bool(value)),
        "recipe": dump_recipe(attrs.evolve(strategy, budget=attrs.asdict(budget))),
        "source": pair.source.name,
        "target": pair.target.name,
        "models": {"source": model_facts(pair.source), "target": model_facts(pair.target)},
        "revisions": {"source": pair.source.revision, "target": pair.target.revision},
        "task": probe.task.name,
        "seed": seed,
        "budget": attrs.asdict(budget),
        "processes": processes.count,
    }


def _effects(
    done: Transferred, changed: Sequence[str], scores: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what came of it."""
    injection = done.injection
    return {
        "layer_map": "" if done.layer_map is None else str(done.layer_map),
        "alignment": {} if done.alignment is None else dict(done.alignment.diagnostics),
        "injection": {} if injection is None else attrs.asdict(injection),
        "changed_parameters": list(changed),
        "scores": scores,
        "software": software(),
        "summary": {
            "steps": injection.steps if injection else 0,
            "changed": f"{len(changed)} parameters",
        },
    }

"""Several runs as one comparison, if they were made under one protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import structlog

from pktkit.compare.lock import Lock, described
from pktkit.errors import UsageError
from pktkit.structure import differences, to_plain

if TYPE_CHECKING:
    from pktkit.compare.fingerprint import TaskPrint
    from pktkit.compare.resume import StoredRun
    from pktkit.outcomes import CellKey, CellResult

log = structlog.get_logger(__name__)

FREE = (
    "strategies",
    "tasks",
    "seeds",
    "points",
    "repeats",
    "selection",
    "trace",
    "evidence",
    "allow_code_execution",
)
"""Fields of a plan in which runs that are merged may differ."""

TERMS = ("rows", "unlabelled", "labels", "steps", "batch_size")
"""Fields of a budget that are terms of the comparison: where all arms of a run agree on one, the
arms of another run must have the same."""


def merged(runs: Sequence[StoredRun]) -> tuple[Lock, list[CellResult]]:
    """Merge runs of one protocol: other strategies, seeds, tasks, or parts of one plan.

    Returns:
        The lock of all of them together, and their cells in the order of its plan.

    Raises:
        UsageError: the protocols differ, or a cell has other scores in another run.
    """
    first = runs[0]
    for other in runs[1:]:
        found = unlike(first.lock, other.lock)
        if found:
            lines = "\n  ".join(found)
            raise UsageError(
                f"{first.path} and {other.path} cannot be ranked together, for they were not made "
                f"under one protocol:\n  {lines}\nRun one of them again with what the other has."
            )
    lock = _together([run.lock for run in runs])
    cells: dict[CellKey, tuple[CellResult, StoredRun]] = {}
    for run in runs:
        for cell in run.results:
            cell = _placed(cell, lock)
            kept = cells.get(cell.key)
            if kept is None or (kept[0].failed and not cell.failed):
                cells[cell.key] = cell, run
            elif not cell.failed:
                _require_same(kept[0], cell, kept[1], run)
    left_out = cells.keys() - set(lock.cells)
    if left_out:
        # Each run repeats its own first seed; the merged comparison has one.
        log.warning("repeats of other seeds than the first are left out", cells=len(left_out))
    return lock, [cells[key][0] for key in lock.cells if key in cells]


def unlike(one: Lock, other: Lock) -> list[str]:
    """Return one line for everything in which the protocols of two runs differ.

    Models by the hashes of their files, tasks by those of their items; strategies of one name by
    every option. Where models lie, versions and hardware are no part of a protocol.
    """
    found = differences(_protocol(one), _protocol(other))
    for name in sorted(one.tasks.keys() & other.tasks.keys()):
        found += differences(_task(name, one.tasks[name]), _task(name, other.tasks[name]))
        found += _unlike_terms(name, one.tasks[name], other.tasks[name])
    theirs = {strategy.name: strategy for strategy in other.plan.strategies}
    for strategy in one.plan.strategies:
        if strategy.name in theirs:
            pair = ([to_plain(s)] for s in (strategy, theirs[strategy.name]))
            found += [(f"strategies.{path}", old, new) for path, old, new in differences(*pair)]
    return described(found)


def environment_notes(runs: Sequence[StoredRun]) -> list[str]:
    """Return one line for everything that is not as in the first run: versions, machine, tests.

    Differences are tested as the first run says.
    """
    first, notes = runs[0], []
    for run in runs[1:]:
        lines = first.lock.environment_changes(run.lock.environment)
        tests = ({"evidence": to_plain(each.lock.plan.evidence)} for each in (first, run))
        notes += [f"{run.path}: {line}" for line in (*lines, *described(differences(*tests)))]
    return notes


def _protocol(lock: Lock) -> dict[str, Any]:
    """Return what must be the same in runs that are ranked together, tasks apart."""
    plan = {key: value for key, value in to_plain(lock.plan).items() if key not in FREE}
    plan["pair"] = {
        key: value
        for key, value in plan["pair"].items()
        if key not in ("source", "target") and not key.endswith("device")
    }
    models = {
        side: {part: files for part, files in to_plain(model).items() if part != "revision"}
        for side, model in lock.models.items()
    }
    return {"plan": plan, "models": models}


def _task(name: str, task: TaskPrint) -> dict[str, Any]:
    parts = to_plain(task).items()
    content = {key: value for key, value in parts if key not in ("budgets", "comparability")}
    return {"tasks": {name: content}}


def _unlike_terms(name: str, one: TaskPrint, other: TaskPrint) -> list[tuple[str, Any, Any]]:
    ours, theirs = _agreed(one.budgets.values()), _agreed(other.budgets.values())
    return [
        (f"tasks.{name}.budget.{term}", ours[term], theirs[term])
        for term in TERMS
        if term in ours and term in theirs and ours[term] != theirs[term]
    ]


def _agreed(budgets: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the terms on which all budgets agree."""
    values = {term: {budget.get(term) for budget in budgets} for term in TERMS}
    return {term: next(iter(found)) for term, found in values.items() if len(found) == 1}


def _together(locks: Sequence[Lock]) -> Lock:
    """Return the first lock with the strategies, tasks, seeds and points of all."""
    plans = [lock.plan for lock in locks]
    plan = attrs.evolve(
        plans[0],
        strategies=tuple({s.name: s for plan in plans for s in plan.strategies}.values()),
        tasks=_union(plan.tasks for plan in plans),
        seeds=_union(plan.seeds for plan in plans),
        points=_union(plan.points for plan in plans),
        repeats=max(plan.repeats for plan in plans),
    )
    tasks = {}
    for name in plan.tasks:
        prints = [lock.tasks[name] for lock in locks if name in lock.tasks]
        budgets = {key: value for each in prints for key, value in each.budgets.items()}
        tasks[name] = attrs.evolve(prints[0], budgets=budgets)
    analyses = {choice.name: choice for lock in locks for choice in lock.analyses}
    chosen = tuple(analyses.values())
    return attrs.evolve(locks[0], plan=plan, part="", tasks=tasks, analyses=chosen)


def _union(lists: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(value for values in lists for value in values))


def _placed(cell: CellResult, lock: Lock) -> CellResult:
    """Give a cell of an untouched model the seed that the merged plan scores it under."""
    if lock.plan.strategy(cell.key.strategy).injector is not None:
        return cell
    return attrs.evolve(cell, key=attrs.evolve(cell.key, seed=lock.plan.seeds[0]))


def _require_same(one: CellResult, other: CellResult, first: StoredRun, run: StoredRun) -> None:
    """Refuse a cell whose item scores are others in a second run."""
    ours = {score.item: score.score for score in one.scores}
    theirs = {score.item: score.score for score in other.scores}
    if ours == theirs:
        return
    key = one.key
    changed = sum(ours.get(item) != theirs.get(item) for item in ours.keys() | theirs.keys())
    reasons = first.lock.environment_changes(run.lock.environment)
    why = "\n  ".join(reasons) if reasons else "nothing: versions, code and hardware are alike"
    raise UsageError(
        f"strategy '{key.strategy}', seed {key.seed} on {key.place} has other scores in {run.path} "
        f"than in {first.path}: {100 * other.mean:.1f} and {100 * one.mean:.1f}, {changed} of "
        f"{len(ours)} items differ. Between the two runs changed:\n  {why}\n"
        "Leave one of the runs out."
    )

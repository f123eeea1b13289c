"""From the cells of a run to rows and paired contrasts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from pktkit import statistics
from pktkit.errors import UsageError, unknown_name
from pktkit.outcomes import CellKey, CellResult
from pktkit.points import OWN
from pktkit.report.contrasts import Gathered, Lineup, contrast, families, gap_closed
from pktkit.report.records import Comparison, Contrast, Failure, Role, Row, Summary, Timing
from pktkit.settings import EvidenceSettings
from pktkit.statistics import FloatArray, Interval, RepeatNoise

_ROLE_ORDER = tuple(Role)
NOT_RUN = "was not run"


def summarise(
    cells: Iterable[CellResult],
    *,
    roles: Mapping[str, str],
    meaning: Mapping[str, str] | None = None,
    placebo_of: Mapping[str, Collection[str]] | None = None,
    plan: Mapping[str, Any] | None = None,
    alpha: float = 0.05,
    n_boot: int = statistics.DEFAULT_DRAWS,
    references: Sequence[str] = (),
) -> Summary:
    """Return rows, contrasts and what may be claimed of them, for every task and point.

    P-values are corrected with Holm over the methods, for each task and each reference (the
    untouched target, the source, every baseline and placebo) on its own: "which strategies beat
    sft?" is one question. P-values of controls against the target are left as they are, for nothing
    is claimed of them; in a run without any method, the trained controls are what is compared.

    Strategies are paired on the seeds both have. Cells that failed, that hold a score which is not
    a number from 0 to 1, or whose items differ from the other rows' become failures of their row.
    If a cell was run again, its last result counts.

    Arguments:
        cells: results in the order they finished.
        roles: by strategy, a value of `Role`; order is that of the rows within a role. A strategy
            without cells becomes a failed row.
        meaning: by placebo, what the methods have and it has not, to follow "profits from".
        placebo_of: by placebo, the methods whose placebo it is; all, where not given.
        plan: facts about the run for the report, without times.
        alpha: error rate of claims, and 1 minus the level of intervals.
        n_boot: bootstrap draws per contrast.
        references: names of the rows to compare with instead, the first for Δ.

    Raises:
        UsageError: a cell's strategy has no role, a role is unknown, or a reference is no row.
    """
    known = _checked_roles(roles)
    for name in references:
        if name not in known:
            raise unknown_name("reference", name, known)
    settings = EvidenceSettings(alpha, n_boot, references)
    latest = {cell.key: cell for cell in cells}
    for key in latest:
        if key.strategy not in known:
            raise UsageError(f"strategy '{key.strategy}' has results but no role in the report.")
    ordered = sorted(known, key=lambda name: _ROLE_ORDER.index(known[name]))
    comparisons = []
    for task, point in _places(latest, known):
        here = [
            cell
            for key, cell in latest.items()
            if key.task == task and (key.point == point or known[key.strategy].seedless)
        ]
        gathered = _gather(here, {name: known[name] for name in ordered})
        found = _compare(task, gathered, settings, meaning or {}, placebo_of or {})
        if point != OWN:
            found = _banded(found, gathered, settings)
        comparisons.append(attrs.evolve(found, point=point))
    return Summary(comparisons=tuple(comparisons), plan=plan or {})


def _places(keys: Collection[CellKey], roles: Mapping[str, Role]) -> list[tuple[str, str]]:
    """Return each task with each point at which something was transferred, in order.

    Untouched models have no point of their own: they stand beside all of their task.
    """
    places = []
    for task in dict.fromkeys(key.task for key in keys):
        own = [key for key in keys if key.task == task]
        points = dict.fromkeys(key.point for key in own if not roles[key.strategy].seedless)
        places += [(task, point) for point in points or (OWN,)]
    return places


def _checked_roles(roles: Mapping[str, str]) -> dict[str, Role]:
    try:
        return {name: Role(role) for name, role in roles.items()}
    except ValueError as error:
        raise UsageError(f"{error}; known roles: {', '.join(Role)}.") from error


def _gather(cells: Sequence[CellResult], roles: Mapping[str, Role]) -> list[Gathered]:
    """Collect usable scores per strategy; all have the same items in the same order."""
    items = _reference_items(cells, roles)
    gathered = []
    for strategy, role in roles.items():
        own = sorted(
            (c for c in cells if c.key.strategy == strategy),
            key=lambda c: (c.key.seed, c.key.repeat),
        )
        problems = {cell.key: _problem(cell, items) for cell in own}
        failures = [
            Failure(key.seed, f"repeat {key.repeat}: {reason}" if key.repeat else reason)
            for key, reason in problems.items()
            if reason
        ]
        if not own:
            failures.append(Failure(None, NOT_RUN))
        usable = tuple(cell for cell in own if not problems[cell.key])
        once = tuple(cell for cell in usable if not cell.key.repeat)
        scores = {cell.key.seed: _aligned_scores(cell, items) for cell in once}
        again = [c for c in usable if c.key.repeat and c.key.seed == min(scores, default=None)]
        repeats = tuple(_aligned_scores(cell, items) for cell in again)
        gathered.append(Gathered(strategy, role, once, scores, tuple(failures), repeats))
    return gathered


def _reference_items(cells: Sequence[CellResult], roles: Mapping[str, Role]) -> tuple[str, ...]:
    """Return the items of the target's row, or else of the first row that has a usable cell."""
    rank = {name: position for position, name in enumerate(roles)}
    for cell in sorted(cells, key=lambda c: (rank[c.key.strategy], c.key.seed, c.key.repeat)):
        items = tuple(score.item for score in cell.scores)
        if not _problem(cell, items):
            return items
    return ()


def _problem(cell: CellResult, items: tuple[str, ...]) -> str:
    """Say why a cell cannot be compared; empty if it can."""
    if cell.failed:
        return " ".join(cell.error.split())
    if not cell.scores:
        return "scored no items"
    for score in cell.scores:
        if not (math.isfinite(score.score) and 0.0 <= score.score <= 1.0):
            return f"the score of item '{score.item}' is {score.score}, not a number from 0 to 1"
    own = {score.item for score in cell.scores}
    if len(own) < len(cell.scores):
        return "scored an item twice"
    if own != set(items):
        return f"scored {len(own)} items, which are not the {len(items)} of the other rows"
    return ""


def _aligned_scores(cell: CellResult, items: tuple[str, ...]) -> FloatArray:
    by_item = {score.item: score.score for score in cell.scores}
    return np.array([by_item[item] for item in items], dtype=np.float64)


def _compare(
    task: str,
    gathered: Sequence[Gathered],
    settings: EvidenceSettings,
    meaning: Mapping[str, str],
    placebo_of: Mapping[str, Collection[str]],
) -> Comparison:
    lineup = Lineup.of(gathered, settings.references)
    contrasts = families(lineup, settings)
    known = {(c.strategy, c.reference): c for c in contrasts}
    main = lineup.references[0] if lineup.references else None

    def between(row: Gathered, reference: Gathered | None) -> Contrast | None:
        """Return a contrast that is claimed, or else one of which nothing is."""
        if reference is None or reference is row or not row.scores:
            return None
        pair = (row.strategy, reference.strategy)
        if pair not in known and (found := contrast(row, reference, settings)):
            known[pair] = found
        return known.get(pair)

    return Comparison(
        task=task,
        items=next((len(scores) for g in gathered for scores in g.scores.values()), 0),
        rows=tuple(
            _row(g, lineup, settings.alpha, between(g, lineup.target), between(g, main))
            for g in gathered
        ),
        contrasts=tuple(contrasts),
        alpha=settings.alpha,
        meaning=meaning,
        placebo_of=placebo_of,
        reference="" if main is None else main.strategy,
    )


def _row(
    gathered: Gathered,
    lineup: Lineup,
    alpha: float,
    against_target: Contrast | None,
    against: Contrast | None,
) -> Row:
    row = Row(strategy=gathered.strategy, role=gathered.role, failures=gathered.failures)
    if not gathered.scores:
        return row
    seeds = sorted(gathered.scores)
    scores = gathered.stacked(seeds)
    mean, deviation = statistics.mean_and_deviation(scores)
    row = attrs.evolve(
        row,
        seeds=tuple(seeds),
        mean=100.0 * mean,
        deviation=None if deviation is None else 100.0 * deviation,
        against_target=against_target,
        against=against,
        gap=gap_closed(gathered, lineup, alpha),
        layer_map=gathered.cells[0].layer_map,
        timing=_timing(gathered.cells),
        repeats=_repeats(gathered),
        **_injected(gathered.cells),
    )
    if lineup.target is None or lineup.target is gathered:
        return row
    base = lineup.target.stacked(seeds)
    return attrs.evolve(
        row, lost=statistics.lost(base, scores), gained=statistics.gained(base, scores)
    )


def _repeats(gathered: Gathered) -> RepeatNoise | None:
    """Compare further runs of a seed with its first, where both have scores."""
    if not gathered.repeats:
        return None
    first = gathered.scores[min(gathered.scores)]
    return statistics.repeat_noise(np.stack([first, *gathered.repeats])).scaled(100.0)


def _banded(
    found: Comparison, gathered: Sequence[Gathered], settings: EvidenceSettings
) -> Comparison:
    """Return a comparison whose rows have an interval of their mean, for a curve's band."""
    intervals = {
        g.strategy: statistics.paired_bootstrap(
            g.stacked(sorted(g.scores)), n_boot=settings.n_boot, level=1 - settings.alpha
        )
        for g in gathered
        if g.scores
    }
    rows = [
        attrs.evolve(row, interval=Interval(100 * max(0.0, band.low), 100 * min(1.0, band.high)))
        if (band := intervals.get(row.strategy))
        else row
        for row in found.rows
    ]
    return attrs.evolve(found, rows=tuple(rows))


def _injected(cells: Sequence[CellResult]) -> dict[str, Any]:
    """Return what injections report and spent, mean over the cells that have it."""
    injections = [cell.injection for cell in cells if cell.injection is not None]
    spent = [cell.spent for cell in cells if cell.spent is not None]
    return {
        name: round(sum(getattr(record, name) for record in records) / len(records))
        for records, names in (
            (injections, ("steps", "tokens", "trainable_parameters")),
            (spent, ("rows", "source_flops", "target_flops")),
        )
        if records
        for name in names
    }


def _timing(cells: Sequence[CellResult]) -> Timing:
    stages = dict.fromkeys(stage for cell in cells for stage in cell.seconds)
    seconds = {
        stage: sum(cell.seconds.get(stage, 0.0) for cell in cells) / len(cells) for stage in stages
    }
    return Timing(seconds=seconds, peak_bytes=max(cell.peak_bytes for cell in cells))

"""A run against its repetition: which numbers match, and why others do not."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.compare.lock import described
from pktkit.report.jsonfile import plain
from pktkit.structure import differences

if TYPE_CHECKING:
    from pktkit.compare.lock import Lock
    from pktkit.outcomes import CellKey, CellResult

SCHEMA_VERSION = 1

TOLERANCE = 1.0
"""Points. Less than what another seed changes in the comparisons of `docs/results.md`, where means
of single seeds lie about one point apart: a repetition that is this close is the same finding."""


class Match(enum.StrEnum):
    """How a number compares with its repetition."""

    SAME = "bit for bit"
    WITHIN = "within tolerance"
    DIFFERENT = "different"
    FAILED = "failed both times"
    ABSENT = "not in the first run"


@attrs.frozen
class Repetition:
    """One row of a comparison, the first time and the second.

    Arguments:
        strategy, task, point: which row.
        seeds: compared.
        match: of item scores where it is `SAME`, else of the mean.
        first, second: mean scores in percent over items and seeds; None where nothing was scored.
        items: number of item scores compared.
        changed_scores, changed_predictions: how many of them are not the same.
        reason: why a cell has no scores, where one failed.
    """

    strategy: str
    task: str
    point: str
    seeds: tuple[int, ...]
    match: Match
    first: float | None
    second: float | None
    items: int
    changed_scores: int
    changed_predictions: int
    reason: str = ""


@attrs.frozen
class Reproduction:
    """What came of repeating a run.

    Arguments:
        rows: in the order of the plan.
        tolerance: in points.
        changes: what differs between the two locks: versions, code, hardware.
    """

    rows: tuple[Repetition, ...]
    tolerance: float
    changes: tuple[str, ...]

    @property
    def reproduced(self) -> bool:
        """Whether every number of the first run came out again, or close enough."""
        return not any(row.match is Match.DIFFERENT for row in self.rows)

    @property
    def verdict(self) -> str:
        """Return the outcome in words."""
        counts = {match: sum(row.match is match for row in self.rows) for match in Match}
        parts = [f"{count} {match}" for match, count in counts.items() if count]
        return f"of {len(self.rows)} rows: {', '.join(parts)}"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return what may have changed the numbers that are not the same."""
        if all(row.match in (Match.SAME, Match.FAILED, Match.ABSENT) for row in self.rows):
            return ()
        return self.changes or (
            "versions, code, hardware, threads and seeds are those of the first run; what is left "
            "is an operation without a fixed order, of a device or of a plugin",
        )

    def document(self) -> dict[str, Any]:
        """Return everything as JSON-serialisable data."""
        return {
            "schema_version": SCHEMA_VERSION,
            "reproduced": self.reproduced,
            "tolerance": self.tolerance,
            "rows": [plain(attrs.asdict(row)) for row in self.rows],
            "changes": list(self.changes),
            "reasons": list(self.reasons),
        }


def reproduction(
    lock: Lock,
    first: Mapping[CellKey, CellResult],
    second: Mapping[CellKey, CellResult],
    *,
    again: Lock,
    tolerance: float = TOLERANCE,
) -> Reproduction:
    """Compare the cells of a run with those of its repetition.

    Arguments:
        lock: of the first run.
        first, second: their cells by key.
        again: lock of the repetition.
        tolerance: largest difference of means, in points, that counts as the same finding.
    """
    rows: dict[tuple[str, str, str], list[CellKey]] = {}
    for key in lock.cells:
        rows.setdefault((key.task, key.point, key.strategy), []).append(key)
    changes = lock.environment_changes(again.environment)
    placed = ({"devices": list(each.plan.pair.devices)} for each in (lock, again))
    changes += described(differences(*placed))
    return Reproduction(
        rows=tuple(_row(keys, first, second, tolerance) for keys in rows.values()),
        tolerance=tolerance,
        changes=tuple(changes),
    )


def _row(
    keys: Sequence[CellKey],
    first: Mapping[CellKey, CellResult],
    second: Mapping[CellKey, CellResult],
    tolerance: float,
) -> Repetition:
    known = [key for key in keys if key in first]
    pairs = [(first[key], second[key]) for key in known]
    scores = [_changes(one, other) for one, other in pairs]
    changed = sum(each[0] for each in scores)
    means = _mean([one for one, _ in pairs]), _mean([other for _, other in pairs])
    errors = [cell.error for pair in pairs for cell in pair if cell.failed]
    return Repetition(
        strategy=keys[0].strategy,
        task=keys[0].task,
        point=keys[0].point,
        seeds=tuple(dict.fromkeys(key.seed for key in known)),
        match=_match(pairs, changed, means, tolerance),
        first=means[0],
        second=means[1],
        items=sum(len(one.scores) for one, _ in pairs),
        changed_scores=changed,
        changed_predictions=sum(each[1] for each in scores),
        reason=" ".join(errors[0].split()) if errors else "",
    )


def _match(
    pairs: Sequence[tuple[CellResult, CellResult]],
    changed: int,
    means: tuple[float | None, float | None],
    tolerance: float,
) -> Match:
    if not pairs:
        return Match.ABSENT
    if any(one.failed != other.failed for one, other in pairs):
        return Match.DIFFERENT
    if not changed:
        return Match.FAILED if all(one.failed for one, _ in pairs) else Match.SAME
    if means[0] is None or means[1] is None or _items_differ(pairs):
        return Match.DIFFERENT
    return Match.WITHIN if abs(means[0] - means[1]) <= tolerance else Match.DIFFERENT


def _mean(cells: Sequence[CellResult]) -> float | None:
    """Return the mean score in percent over the cells that have scores."""
    means = [100.0 * cell.mean for cell in cells if not cell.failed]
    return sum(means) / len(means) if means else None


def _items_differ(pairs: Sequence[tuple[CellResult, CellResult]]) -> bool:
    return any({s.item for s in one.scores} != {s.item for s in two.scores} for one, two in pairs)


def _changes(one: CellResult, other: CellResult) -> tuple[int, int]:
    """Return how many items have another score, and how many another prediction."""
    ours = {score.item: score for score in one.scores}
    theirs = {score.item: score for score in other.scores}
    shared = ours.keys() & theirs.keys()
    alone = len(ours.keys() ^ theirs.keys())
    # Equal bits: also a NaN, which is not equal to itself, has been reproduced.
    scores = sum(ours[item].score.hex() != theirs[item].score.hex() for item in shared)
    predictions = sum(ours[item].prediction != theirs[item].prediction for item in shared)
    return scores + alone, predictions + alone

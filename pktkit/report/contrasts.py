"""Paired contrasts of rows: which pairs are looked at, and what the numbers say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from pktkit import statistics
from pktkit.outcomes import CellResult
from pktkit.report.records import Contrast, Failure, GapClosed, Role
from pktkit.settings import EvidenceSettings
from pktkit.statistics import FloatArray


@attrs.frozen(eq=False)
class Gathered:
    """A strategy's usable cells on one task, and its scores `[items]` by seed.

    Arguments:
        repeats: scores of further runs of its first seed.
    """

    strategy: str
    role: Role
    cells: tuple[CellResult, ...]
    scores: Mapping[int, FloatArray]
    failures: tuple[Failure, ...]
    repeats: tuple[FloatArray, ...] = ()

    def stacked(self, seeds: Sequence[int]) -> FloatArray:
        """Return scores `[seeds, items]`; one row where the seed does not matter."""
        chosen = sorted(self.scores)[:1] if self.role.seedless else seeds
        return np.stack([self.scores[seed] for seed in chosen])


@attrs.frozen(eq=False)
class Lineup:
    """Which rows are under comparison, and which they are compared with.

    Arguments:
        compared: the methods; without any in the run, the controls that were trained.
        references: what every compared row is contrasted with; the first is what Δ refers to.
        target, source: the untouched models, where they have scores.
    """

    compared: tuple[Gathered, ...]
    references: tuple[Gathered, ...]
    target: Gathered | None
    source: Gathered | None

    @classmethod
    def of(cls, gathered: Sequence[Gathered], named: Sequence[str]) -> Lineup:
        """Choose among the rows that have scores.

        Arguments:
            named: references by name; none for the target and every row not under comparison.
        """
        usable = {g.strategy: g for g in gathered if g.scores}
        role = Role.METHOD if any(g.role is Role.METHOD for g in gathered) else None
        compared = [g for g in usable.values() if (g.role is role if role else not g.role.seedless)]
        references = [usable[name] for name in named if name in usable]
        if not named:
            references = [g for g in usable.values() if g not in compared]
            references.sort(key=lambda g: g.role is not Role.TARGET)
        return cls(
            tuple(compared),
            tuple(references),
            next((g for g in usable.values() if g.role is Role.TARGET), None),
            next((g for g in usable.values() if g.role is Role.SOURCE), None),
        )


def families(lineup: Lineup, settings: EvidenceSettings) -> list[Contrast]:
    """Contrast every compared row with every reference, correcting per reference."""
    return [
        found
        for reference in lineup.references
        for found in _family(
            [row for row in lineup.compared if row is not reference], reference, settings
        )
    ]


def _family(
    rows: Sequence[Gathered], reference: Gathered, settings: EvidenceSettings
) -> list[Contrast]:
    contrasts = [
        found
        for row in rows
        if (found := contrast(row, reference, settings, looks=len(rows))) is not None
    ]
    adjusted = statistics.holm([found.p for found in contrasts])
    return [attrs.evolve(c, adjusted_p=p) for c, p in zip(contrasts, adjusted, strict=True)]


def contrast(
    row: Gathered, reference: Gathered, settings: EvidenceSettings, *, looks: int = 1
) -> Contrast | None:
    """Contrast two rows on their common seeds; None if they have none.

    Arguments:
        looks: how many rows are contrasted with the reference, for the detectable effect.
    """
    seeds = _paired_seeds(row, reference)
    if not seeds:
        return None
    difference = row.stacked(seeds) - reference.stacked(seeds)
    evidence = statistics.paired_evidence(
        difference,
        n_boot=settings.n_boot,
        alpha=settings.alpha,
        detectable_alpha=settings.alpha / max(1, looks),
    )
    return Contrast(
        strategy=row.strategy,
        reference=reference.strategy,
        points=100.0 * evidence.mean,
        interval=evidence.interval.scaled(100.0),
        p=evidence.p,
        adjusted_p=None,
        detectable=100.0 * evidence.detectable,
        seeds=evidence.seeds,
        alpha=settings.alpha,
        exact=statistics.exact_test(difference, draws=settings.n_boot),
        variance=statistics.variance_parts(difference).scaled(100.0),
    )


def gap_closed(row: Gathered, lineup: Lineup, alpha: float) -> GapClosed | None:
    """Return the share of the source-target distance closed; None for target and source."""
    target, source = lineup.target, lineup.source
    if target is None or source is None or row.role.seedless:
        return None
    seeds = sorted(row.scores)
    base = target.stacked(seeds)
    found = statistics.share_closed(
        row.stacked(seeds) - base, source.stacked(seeds) - base, alpha=alpha
    )
    if found is None:
        return GapClosed()
    return GapClosed(100.0 * found.share, found.interval.scaled(100.0))


def _paired_seeds(row: Gathered, reference: Gathered) -> list[int]:
    if reference.role.seedless:
        return sorted(row.scores)
    if row.role.seedless:
        return sorted(reference.scores)
    return sorted(set(row.scores) & set(reference.scores))

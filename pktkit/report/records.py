"""The frozen records a report is made of. Scores are in percent, differences in points."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from pktkit.points import place
from pktkit.statistics import ExactTest, Interval, RepeatNoise, VarianceParts


class Role(enum.StrEnum):
    """What a row is for. Rows are shown in this order.

    TARGET: the untouched target. SOURCE: the source itself. METHOD: a strategy under comparison.
    BASELINE: another way to spend the same budget. PLACEBO: a method with its point taken out.
    """

    TARGET = "target"
    SOURCE = "source"
    METHOD = "method"
    BASELINE = "baseline"
    PLACEBO = "placebo"

    @property
    def seedless(self) -> bool:
        """Whether rows of this role are the same under every seed."""
        return self in (Role.TARGET, Role.SOURCE)


class Claim(enum.StrEnum):
    """What the numbers allow to be said of one contrast."""

    BEATS = "beats"
    NOT_SEPARABLE = "not separable from"
    WORSE = "worse than"


@attrs.frozen
class Contrast:
    """One strategy minus one reference, on the same items and seeds.

    Arguments:
        strategy, reference: names of the two rows.
        points: mean difference in points, -100 to 100; positive where the strategy is better.
        interval: of `points`, at level `1 - alpha`, not corrected.
        p: two-sided, not corrected.
        adjusted_p: corrected with Holm over the methods, per reference; None for contrasts of
            which nothing is claimed, i.e. a control against the target.
        detectable: smallest difference, in points, that this sample shows with 80 % power.
        seeds: number of seeds both rows have.
        alpha: error rate of the claim.
        exact: second opinion on `p`, over items alone with these seeds; nothing is claimed of it.
        variance: what seeds, items and noise contribute, in points.
    """

    strategy: str
    reference: str
    points: float
    interval: Interval
    p: float
    adjusted_p: float | None
    detectable: float
    seeds: int
    alpha: float
    exact: ExactTest | None = None
    variance: VarianceParts | None = None

    @property
    def claim(self) -> Claim:
        """Beats or worse only if the corrected p is below alpha and the interval excludes 0."""
        if self.adjusted_p is None or self.adjusted_p >= self.alpha or 0.0 in self.interval:
            return Claim.NOT_SEPARABLE
        return Claim.BEATS if self.points > 0 else Claim.WORSE


@attrs.frozen
class GapClosed:
    """Share of the distance from the untouched target to the source that a row has closed.

    Arguments:
        percent: 0 is the target, 100 the source; None where the source is not shown to be above
            the target, so that no share of the distance between them means anything.
        interval: of `percent`, at the level of the comparison.
    """

    percent: float | None = None
    interval: Interval | None = None


@attrs.frozen
class Failure:
    """Why a seed of a row has no scores; `seed` is None if that holds for the whole row."""

    seed: int | None
    reason: str


@attrs.frozen
class Timing:
    """What a row cost on this machine; differs from run to run.

    Arguments:
        seconds: wall seconds by stage, mean over seeds.
        peak_bytes: largest peak memory of any seed.
    """

    seconds: Mapping[str, float] = attrs.field(factory=dict)
    peak_bytes: int = 0

    @property
    def total(self) -> float | None:
        """Wall seconds of all stages, or None if nothing was timed."""
        return sum(self.seconds.values()) if self.seconds else None


@attrs.frozen
class Row:
    """One strategy on one task.

    Arguments:
        strategy, role: which row this is.
        seeds: seeds that have scores, ascending; empty when the row failed.
        failures: seeds that have none, with the reason.
        mean: mean score over items and seeds, percent.
        deviation: of the seeds' means, percent; None with one seed or where seeds do not matter.
        against_target: contrast with the untouched target, if both have scores.
        against: contrast with the reference of the comparison, shown as Δ.
        gap: share of the source-target distance closed, if target and source have scores.
        lost, gained: items the untouched target had right and this row has wrong, and the other
            way round; number of items, mean over seeds.
        steps, tokens, trainable_parameters: of the injection, mean over seeds; None where nothing
            was injected.
        rows: training rows that could be read, as steps.
        source_flops, target_flops: operations of the transfer, as steps; see `pktkit.flops`.
        interval: of `mean` over items and seeds, on a learning curve only; percent.
        layer_map: printable layer map of the first seed.
        timing: what it cost.
        repeats: what runs of one seed differ in that should be the same, in points, if asked for.
    """

    strategy: str
    role: Role
    seeds: tuple[int, ...] = ()
    failures: tuple[Failure, ...] = ()
    mean: float | None = None
    deviation: float | None = None
    against_target: Contrast | None = None
    against: Contrast | None = None
    gap: GapClosed | None = None
    lost: float | None = None
    gained: float | None = None
    steps: int | None = None
    tokens: int | None = None
    trainable_parameters: int | None = None
    rows: int | None = None
    source_flops: int | None = None
    target_flops: int | None = None
    interval: Interval | None = None
    layer_map: str = ""
    timing: Timing = attrs.field(factory=Timing)
    repeats: RepeatNoise | None = None

    @property
    def control(self) -> bool:
        """Whether the row is a point of reference instead of a strategy under comparison."""
        return self.role is not Role.METHOD

    @property
    def n_seeds(self) -> int:
        """How many seeds have scores."""
        return len(self.seeds)

    @property
    def flops(self) -> int | None:
        """Operations of both models, or None where nothing was injected."""
        if self.source_flops is None or self.target_flops is None:
            return None
        return self.source_flops + self.target_flops

    @property
    def failed(self) -> str | None:
        """Why the row has no scores at all, or None if it has some."""
        return None if self.seeds else "; ".join(dict.fromkeys(f.reason for f in self.failures))


@attrs.frozen
class Comparison:
    """All rows and contrasts of one task, at one point of a curve.

    Arguments:
        task: its name.
        items: number of test items.
        rows: in the order of `Role`, within a role as given.
        contrasts: of every strategy under comparison with every reference.
        alpha: error rate of claims; intervals are at level `1 - alpha`.
        meaning: by placebo, what the method has and the placebo has not, as in "profits from …".
        placebo_of: by placebo, the methods it is a placebo of; of all, where not given.
        reference: name of the row that Δ is the difference to; empty without one.
        point: rows or steps of the curve's point; empty for the task's own budget.
    """

    task: str
    items: int
    rows: tuple[Row, ...]
    contrasts: tuple[Contrast, ...]
    alpha: float = 0.05
    meaning: Mapping[str, str] = attrs.field(factory=dict)
    placebo_of: Mapping[str, Collection[str]] = attrs.field(factory=dict)
    reference: str = ""
    point: str = ""

    @property
    def name(self) -> str:
        """The task, at its point."""
        return place(self.task, self.point)

    @property
    def level(self) -> float:
        """Level of the intervals in percent."""
        return 100.0 * (1.0 - self.alpha)

    def row(self, strategy: str) -> Row:
        """Return the row of a strategy.

        Raises:
            KeyError: there is no such row.
        """
        for row in self.rows:
            if row.strategy == strategy:
                return row
        raise KeyError(strategy)

    def of_role(self, role: Role) -> tuple[Row, ...]:
        """Return the rows of a role, in order."""
        return tuple(row for row in self.rows if row.role is role)

    def contrasts_of(self, strategy: str) -> tuple[Contrast, ...]:
        """Return the contrasts of a strategy with its references, in the order of the rows."""
        return tuple(c for c in self.contrasts if c.strategy == strategy)


@attrs.frozen
class Summary:
    """Everything a report shows: one comparison per task and point, and what was planned.

    Arguments:
        comparisons: one per task and point of a curve, in the order of the cells.
        plan: JSON-serialisable facts about the run (pair, budget, seeds, versions), no times.
    """

    comparisons: tuple[Comparison, ...]
    plan: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def any_failed(self) -> bool:
        """Whether some row has a seed without scores; the command then ends with exit code 1."""
        return any(row.failures for comparison in self.comparisons for row in comparison.rows)

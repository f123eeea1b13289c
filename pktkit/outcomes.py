"""What cells, stages and whole comparisons came to: the records that reports are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.converters import as_tuple
from pktkit.points import place

if TYPE_CHECKING:
    from pktkit.tracing import TraceEvent
    from pktkit.values import Injection


@attrs.frozen
class ItemScore:
    """The score of one item.

    Arguments:
        item: the item's id.
        score: 1.0 right, 0.0 wrong; between for graded metrics.
        prediction: what the model said.
    """

    item: str
    score: float
    prediction: str = ""


@attrs.frozen
class CellKey:
    """One independent unit of a comparison.

    Arguments:
        strategy, task, seed: which transfer is scored where.
        point: rows or steps of its own, see `pktkit.points`; empty for the task's own budget.
        repeat: 0, or the number of a further run of the same cell, which measures noise.
    """

    strategy: str
    task: str
    seed: int
    point: str = ""
    repeat: int = 0

    @property
    def place(self) -> str:
        """The task, at its point: cells with the same place are compared with each other."""
        return place(self.task, self.point)


@attrs.frozen
class Spent:
    """What a transfer used up, besides what its injection reports.

    Arguments:
        rows: training rows it could read.
        source_flops, target_flops: floating-point operations of both models up to the end of the
            injection, see `pktkit.flops`; the target's include adapters and maps.
    """

    rows: int = 0
    source_flops: int = 0
    target_flops: int = 0

    @property
    def flops(self) -> int:
        """Operations of both models."""
        return self.source_flops + self.target_flops


@attrs.frozen
class CellResult:
    """What one cell produced; a failed cell has a reason and no scores.

    Arguments:
        key: strategy, task, seed, point.
        scores: one per test item.
        injection: what the injector reported; None for untouched models.
        layer_map: printable layer map.
        seconds: wall time by stage: data (drawing rows; the source's answers, where they are
            learnt from), match, align, inject, evaluate; other is all the rest of the cell.
        peak_bytes: peak memory of the process or device while the cell ran.
        error: why it failed; empty when it did not.
        notes: sentences that a reader of its scores should know, such as how many rows were cut.
        spent: rows and operations of the transfer; None for untouched models.
        trace: what plugins did, in order, where the plan asked for it; not kept on disk.
    """

    key: CellKey
    scores: tuple[ItemScore, ...] = attrs.field(default=(), converter=as_tuple)
    injection: Injection | None = None
    layer_map: str = ""
    seconds: Mapping[str, float] = attrs.field(factory=dict)
    peak_bytes: int = 0
    error: str = ""
    notes: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    spent: Spent | None = None
    trace: tuple[TraceEvent, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the cell ended with an error."""
        return bool(self.error)

    @property
    def mean(self) -> float:
        """Mean item score, 0 to 1."""
        return sum(s.score for s in self.scores) / len(self.scores) if self.scores else 0.0


@attrs.frozen
class StageRecord:
    """Passed to observers when a stage of a cell has finished."""

    key: CellKey
    stage: str
    seconds: float
    summary: str


@attrs.frozen
class ComparisonRecord:
    """Passed to observers when a comparison has finished."""

    run_directory: str
    results: Mapping[str, Any]


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@attrs.frozen
class Figure:
    """A picture in a report.

    Arguments:
        name: becomes part of a file's name; lower case, words joined by hyphens.
        png: the picture's bytes.
        caption: one sentence below the picture.
        alt: what the picture shows, for readers who do not see it.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z0-9]+(-[a-z0-9]+)*"))
    png: bytes = attrs.field(repr=lambda png: f"<{len(png)} bytes>")
    caption: str = attrs.field(validator=attrs.validators.instance_of(str))
    alt: str = attrs.field(validator=attrs.validators.instance_of(str))

    @png.validator
    def _is_png(self, attribute: object, value: object) -> None:
        if not isinstance(value, bytes) or not value.startswith(PNG_SIGNATURE):
            raise ValueError(f"figure '{self.name}' must hold the bytes of a PNG file.")


@attrs.frozen
class ReportSection:
    """A section that a plugin adds to the report.

    Arguments:
        title: heading.
        markdown: body; HTML in it is shown as text, pictures belong into `figures`.
        figures: pictures below the body.
    """

    title: str = attrs.field(validator=attrs.validators.instance_of(str))
    markdown: str = attrs.field(validator=attrs.validators.instance_of(str))
    figures: tuple[Figure, ...] = attrs.field(
        default=(),
        converter=as_tuple,
        validator=attrs.validators.deep_iterable(attrs.validators.instance_of(Figure)),
    )

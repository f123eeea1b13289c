"""Forest plots: differences with their intervals around a line at 0."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from pktkit.report import numbers
from pktkit.report.page import canvas
from pktkit.report.page.elements import figure, heading, multiples, note
from pktkit.report.records import Comparison, Contrast, Role
from pktkit.report.verdict import name_of

ROW = 22.0
MARGIN = 14.0
HOLLOW = "Filled: the interval excludes 0. Hollow: it holds 0."


@attrs.frozen
class Span:
    """One line of a forest plot.

    Arguments:
        name: at the left.
        middle, low, high: estimate and interval, in points.
        strong: whether the name stands out.
    """

    name: str
    middle: float
    low: float
    high: float
    strong: bool = False

    @classmethod
    def of(cls, contrast: Contrast, name: str, *, strong: bool = False) -> Span:
        """Return the line of a contrast."""
        return cls(name, contrast.points, contrast.interval.low, contrast.interval.high, strong)

    @property
    def kind(self) -> str:
        """`better`, `worse` or `open`: which side of 0 the whole interval is on."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "open"

    def __str__(self) -> str:
        low, high = numbers.signed(self.low), numbers.signed(self.high)
        return f"{self.name} {numbers.signed(self.middle)} [{low}, {high}]"


@attrs.frozen
class Frame:
    """How wide a forest plot is, and the differences it reaches to.

    Arguments:
        width, names: of the picture and of the column of names, in its units.
        low, high: ends of the axis, in points; 0 is inside.
    """

    low: float
    high: float
    width: float = 300.0
    names: float = 104.0

    @classmethod
    def around(cls, spans: Sequence[Span], *, width: float = 300.0, names: float = 104.0) -> Frame:
        """Return the frame in which all spans have room."""
        low = min((0.0, *(span.low for span in spans)))
        high = max((0.0, *(span.high for span in spans)))
        if low == high:
            low, high = -1.0, 1.0
        return cls(low, high, width, names)

    def place(self, points: float) -> float:
        """Return where a difference is drawn."""
        room = self.width - self.names - 2 * MARGIN
        return self.names + MARGIN + (points - self.low) * room / (self.high - self.low)


def plot(spans: Sequence[Span], title: str, frame: Frame) -> str:
    """Draw spans below each other; what an interval says is told by shape as well as by colour."""
    height = ROW * len(spans) + 24
    parts = []
    for tick in canvas.ticks(frame.low, frame.high):
        x = frame.place(tick)
        parts.append(canvas.line(x, 4, x, height - 20, "zero" if tick == 0 else "axis"))
        parts.append(canvas.text(x, height - 6, canvas.signed(tick), "soft", "middle"))
    for place, span in enumerate(spans):
        y = ROW * place + ROW / 2 + 4
        name = canvas.cut(span.name, frame.names)
        parts.append(canvas.text(0, y + 4, name, "strong" if span.strong else ""))
        drawn = canvas.line(frame.place(span.low), y, frame.place(span.high), y, f"bar {span.kind}")
        drawn += canvas.circle(frame.place(span.middle), y, 4, f"bar {span.kind}")
        parts.append(canvas.hint(drawn, str(span)))
    return canvas.picture(
        parts,
        width=frame.width,
        height=height,
        title=title,
        description="; ".join(map(str, spans)),
    )


def against_reference(comparison: Comparison) -> str:
    """Draw the difference of every row to the comparison's reference; empty without one."""
    spans = reference_spans(comparison)
    if not spans:
        return ""
    name = name_of(comparison, comparison.reference)
    caption = (
        f"Difference to {name} in points, with {comparison.level:g} % interval, not corrected. "
        f"{HOLLOW} What may be claimed is in the verdict."
    )
    picture = plot(spans, f"Forest plot of the difference to {name}", Frame.around(spans))
    short = name_of(comparison, comparison.reference, short=True)
    return f"{heading(f'Δ to {short}')}\n{figure(picture, caption)}"


def reference_spans(comparison: Comparison) -> list[Span]:
    """Return a line per row that has a difference to the reference."""
    return [
        Span.of(row.against, row.strategy, strong=row.role is Role.METHOD)
        for row in comparison.rows
        if row.against is not None
    ]


def against_others(comparison: Comparison) -> str:
    """Draw every strategy against every other reference: a panel each, on one scale."""
    panels: dict[str, list[Span]] = {}
    for contrast in comparison.contrasts:
        if contrast.reference != comparison.reference:
            spans = panels.setdefault(contrast.reference, [])
            spans.append(Span.of(contrast, contrast.strategy))
    if not panels:
        return ""
    everything = [span for spans in panels.values() for span in spans]
    frame = Frame.around(everything, width=270.0, names=100.0)
    drawn = []
    for reference, spans in panels.items():
        name = name_of(comparison, reference)
        picture = plot(spans, f"Forest plot of the difference to {name}", frame)
        drawn.append(figure(picture, f"Δ to {name}"))
    text = f"Points, with {comparison.level:g} % interval; all panels have one scale. {HOLLOW}"
    return f"{heading('Δ to the other references')}\n{note(text)}\n{multiples(drawn)}"

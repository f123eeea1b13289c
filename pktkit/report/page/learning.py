"""Learning curves: a panel per trained row with its band, on one scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from pktkit.report import curves
from pktkit.report.curves import Curve
from pktkit.report.page import canvas
from pktkit.report.page.document import Block
from pktkit.report.page.elements import figure, multiples, note, table
from pktkit.report.records import Summary

WIDTH, HEIGHT = 260.0, 168.0
TOP, LEFT, RIGHT, BOTTOM = 10.0, 30.0, 50.0, 34.0
READING = (
    "A panel per row that was trained, all on one scale, with its interval as a band. Thin: the "
    "other rows. Dotted: the untouched models."
)


def learning_blocks(summary: Summary) -> list[Block]:
    """Return a block per task and budget that was varied; none without points."""
    return [_block(group) for group in curves.grouped(curves.curves(summary))]


def _block(group: Sequence[Curve]) -> Block:
    frame = _Frame.around(group)
    panels = [
        figure(_panel(curve, group, frame), curve.strategy)
        for curve in group
        if not curve.role.seedless
    ]
    numbers = table(
        curves.headings(group),
        curves.body(group),
        kinds=[str(curve.role) for curve in group],
        label=curves.title(group[0]),
    )
    parts = [note(READING), multiples(panels), numbers, note(curves.note(group[0]))]
    return Block(curves.title(group[0]), "\n".join(parts))


@attrs.frozen
class _Frame:
    """What the panels of a group share: budgets on a logarithmic axis, scores on a linear one."""

    budgets: tuple[int, ...]
    low: float
    high: float

    @classmethod
    def around(cls, group: Sequence[Curve]) -> _Frame:
        values = [value for curve in group for point in curve.points for value in _span(point)]
        low, high = (min(values), max(values)) if values else (0.0, 100.0)
        if high - low < 1.0:
            low, high = low - 1.0, high + 1.0
        return cls(tuple(point.budget for point in group[0].points), low, high)

    def x(self, budget: int) -> float:
        first, last = math.log(self.budgets[0]), math.log(self.budgets[-1])
        return LEFT + 6 + (WIDTH - LEFT - RIGHT - 12) * (math.log(budget) - first) / (last - first)

    def y(self, score: float) -> float:
        return (
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (score - self.low) / (self.high - self.low)
        )

    def axes(self, across: str) -> list[str]:
        parts = []
        for tick in canvas.ticks(self.low, self.high, 4):
            parts.append(canvas.line(LEFT, self.y(tick), WIDTH - RIGHT, self.y(tick), "axis"))
            parts.append(canvas.text(LEFT - 4, self.y(tick) + 4, canvas.plain(tick), "soft", "end"))
        end = -math.inf
        for budget in self.budgets:
            half = canvas.LETTER * len(str(budget)) / 2
            if self.x(budget) - half > end:
                parts.append(
                    canvas.text(self.x(budget), HEIGHT - 18, str(budget), "soft", "middle")
                )
                end = self.x(budget) + half + 4
        middle = (LEFT + WIDTH - RIGHT) / 2
        return [*parts, canvas.text(middle, HEIGHT - 4, across, "soft", "middle")]


def _panel(curve: Curve, group: Sequence[Curve], frame: _Frame) -> str:
    parts = frame.axes(curves.axis_title(curve.axis))
    ends: list[float] = []
    for other in group:
        if other.role.seedless:
            parts += _line(other, frame, "still")
            mean = other.points[-1].mean
            if mean is not None:
                y = _free(frame.y(mean) + 4, ends)
                name = canvas.cut(other.strategy, RIGHT - 4)
                parts.append(canvas.text(WIDTH - RIGHT + 4, y, name, "soft"))
        elif other is not curve:
            parts += _line(other, frame, "faint")
    parts += _band(curve, frame)
    parts += _line(curve, frame, "curve")
    parts += [
        canvas.hint(
            canvas.circle(frame.x(point.budget), frame.y(point.mean), 3.2, "dot"),
            f"{curve.axis} {point.budget}: {curves.score(point)}",
        )
        for point in curve.points
        if point.mean is not None
    ]
    scores = "; ".join(f"{point.budget}: {curves.score(point)}" for point in curve.points)
    return canvas.picture(
        parts,
        width=WIDTH,
        height=HEIGHT,
        title=f"{curve.strategy}: score against {curves.axis_title(curve.axis)}",
        description=scores,
    )


def _line(curve: Curve, frame: _Frame, kind: str) -> list[str]:
    means = [point.mean for point in curve.points]
    lines = []
    for run in canvas.runs(means):
        places = [curve.points[place] for place in run]
        lines.append(
            canvas.polyline(
                [(frame.x(p.budget), frame.y(p.mean)) for p in places if p.mean is not None], kind
            )
        )
    return lines


def _band(curve: Curve, frame: _Frame) -> list[str]:
    """Draw the intervals; where a point has no neighbour, as a line."""
    lows = [point.interval.low if point.interval else None for point in curve.points]
    parts = []
    for run in canvas.runs(lows):
        ends = [
            (frame.x(point.budget), frame.y(point.interval.low), frame.y(point.interval.high))
            for place in run
            if (point := curve.points[place]).interval is not None
        ]
        if len(ends) == 1:
            [(x, low, high)] = ends
            parts.append(canvas.line(x, low, x, high, "bar better"))
            continue
        below = [(x, low) for x, low, _ in ends]
        above = [(x, high) for x, _, high in reversed(ends)]
        parts.append(canvas.polygon([*below, *above], "band"))
    return parts


def _span(point: curves.CurvePoint) -> list[float]:
    """Return the scores that a point needs room for."""
    if point.mean is None:
        return []
    ends = [point.interval.low, point.interval.high] if point.interval else []
    return [point.mean, *ends]


def _free(y: float, taken: list[float]) -> float:
    """Move a label down until it touches none that is there."""
    while any(abs(y - other) < 11 for other in taken):
        y += 1
    taken.append(y)
    return y

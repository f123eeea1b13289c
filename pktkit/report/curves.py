"""Learning curves: score against rows or steps, for every row of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.converters import as_tuple
from pktkit.outcomes import Figure, ReportSection
from pktkit.points import FIELDS, point_fields
from pktkit.report.records import Comparison, Role, Row, Summary
from pktkit.statistics import Interval

if TYPE_CHECKING:
    from pktkit.plotting import Line


@attrs.frozen
class CurvePoint:
    """Where a curve was measured; scores in percent.

    Arguments:
        budget: rows or steps.
        mean: mean score, None where the row failed.
        interval: of the mean, over items and seeds; None where the row failed.
        seeds: how many seeds it rests on.
    """

    budget: int
    mean: float | None
    interval: Interval | None
    seeds: int


@attrs.frozen
class Curve:
    """One row's score against one budget.

    Arguments:
        task: its name; with the other budget where both were varied, as in `arith at steps=50`.
        strategy, role: which row; untouched models are flat.
        axis: `rows` or `steps`.
        points: by ascending budget.
        level: of the intervals, in percent.
    """

    task: str
    strategy: str
    role: Role
    axis: str
    points: tuple[CurvePoint, ...] = attrs.field(converter=as_tuple)
    level: float


def curves(summary: Summary) -> tuple[Curve, ...]:
    """Return every curve that a summary's points draw; none without points.

    A grid of rows and steps has a curve over rows at each number of steps, and the other way
    round. A budget that was given one value only draws none.
    """
    found: list[Curve] = []
    for axis in FIELDS:
        families: dict[str, list[tuple[int, Comparison]]] = {}
        for comparison in summary.comparisons:
            fields = point_fields(comparison.point)
            if axis in fields:
                budget = fields.pop(axis)
                rest = ",".join(f"{name}={number}" for name, number in fields.items())
                name = attrs.evolve(comparison, point=rest).name
                families.setdefault(name, []).append((budget, comparison))
        for name, places in families.items():
            if len(places) > 1:
                found += _family(name, axis, sorted(places, key=lambda place: place[0]))
    return tuple(found)


def curve_sections(summary: Summary) -> list[ReportSection]:
    """Return a section per task and budget: a table and a figure with bands."""
    sections = []
    for group in grouped(curves(summary)):
        first = group[0]
        table = [headings(group), ("--",) + ("--:",) * len(first.points), *body(group)]
        lines = ["| " + " | ".join(_escape(cell) for cell in row) + " |" for row in table]
        text = "\n".join(lines) + f"\n\n{note(first)}"
        sections.append(ReportSection(title(first), text, (curve_figure(group),)))
    return sections


def grouped(found: Sequence[Curve]) -> list[list[Curve]]:
    """Return curves by what they are plotted against: those of one task and budget together."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in found:
        groups.setdefault((curve.task, curve.axis), []).append(curve)
    return list(groups.values())


def title(curve: Curve) -> str:
    """Return the heading of a curve's group."""
    return f"Score against {axis_title(curve.axis)} · {curve.task}"


def headings(group: Sequence[Curve]) -> tuple[str, ...]:
    """Return the heading of every column of a group's table."""
    axis = group[0].axis
    return ("strategy", *(f"{axis} {point.budget}" for point in group[0].points))


def body(group: Sequence[Curve]) -> list[tuple[str, ...]]:
    """Return a line per strategy: its score with interval at every point."""
    return [(curve.strategy, *(score(point) for point in curve.points)) for curve in group]


def note(curve: Curve) -> str:
    """Return how to read a group."""
    text = f"Score in percent, in brackets its {curve.level:g} % interval over items and seeds."
    if curve.axis == "steps":
        return (
            f"{text} Each point is a run of its own, whose learning rate falls to its end at that "
            "step; it is not a look into a longer run."
        )
    return f"{text} Each point is a run of its own; the optimiser steps are the same at all."


def curve_figure(group: Sequence[Curve]) -> Figure:
    """Return the picture of a group; bands are the intervals.

    Strategies and their controls have a panel each, untouched models are in both.
    """
    from pktkit.plotting import Panel, lines

    first = group[0]
    ticks = [str(point.budget) for point in first.points]
    styles = {curve.strategy: place for place, curve in enumerate(_changing(group))}
    still = [_line(curve, len(styles) + i, faint=True) for i, curve in enumerate(_still(group))]
    panels = []
    for name, wanted in (("strategies", True), ("baselines and placebos", False)):
        drawn = [
            _line(curve, styles[curve.strategy])
            for curve in _changing(group)
            if (curve.role is Role.METHOD) is wanted
        ]
        if drawn:
            panels.append(Panel(f"{first.task} · {name}", ticks, [*still, *drawn]))
    png = lines(
        panels,
        label="score %",
        across=axis_title(first.axis),
        zero=False,
        room=0.2 * len(group) / 2,
    )
    ends = "; ".join(
        f"{curve.strategy} {score(curve.points[0])} to {score(curve.points[-1])}" for curve in group
    )
    what = f"score against {axis_title(first.axis)} on {first.task}"
    return Figure(
        f"curve-{first.axis}",
        png,
        f"S{what[1:]}; bands: {first.level:g} % interval.",
        f"Curves of {what}. {ends}.",
    )


def _changing(group: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in group if not curve.role.seedless]


def _still(group: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in group if curve.role.seedless]


def _line(curve: Curve, style: int, *, faint: bool = False) -> Line:
    from pktkit.plotting import Line

    return Line(
        curve.strategy,
        [_value(point.mean) for point in curve.points],
        style,
        faint,
        low=[_value(p.interval.low if p.interval else None) for p in curve.points],
        high=[_value(p.interval.high if p.interval else None) for p in curve.points],
    )


def _family(name: str, axis: str, places: Sequence[tuple[int, Comparison]]) -> list[Curve]:
    first = places[0][1]
    return [
        Curve(
            name,
            row.strategy,
            row.role,
            axis,
            [_point(budget, comparison.row(row.strategy)) for budget, comparison in places],
            first.level,
        )
        for row in first.rows
    ]


def _point(budget: int, row: Row) -> CurvePoint:
    return CurvePoint(budget, row.mean, row.interval, row.n_seeds)


def score(point: CurvePoint) -> str:
    """Write a point's score with its interval."""
    if point.mean is None or point.interval is None:
        return "failed" if point.mean is None else f"{point.mean:.1f}"
    return f"{point.mean:.1f} [{point.interval.low:.1f}, {point.interval.high:.1f}]"


def _value(value: float | None) -> float:
    return float("nan") if value is None else value


def axis_title(name: str) -> str:
    """Return what a budget is called along an axis."""
    return {"rows": "training rows", "steps": "optimiser steps"}[name]


def _escape(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]").replace("|", "\\|")

"""Loss curves: a small panel per trained row and loss term."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pktkit.report.losses import Losses
from pktkit.report.page import canvas
from pktkit.report.page.elements import figure, heading, multiples, note
from pktkit.report.records import Comparison

WIDTH, HEIGHT = 190.0, 74.0
TOP, LEFT, RIGHT, BOTTOM = 10.0, 36.0, 40.0, 10.0
READING = "Mean over each tenth of a run and over seeds; first and last are written out."


def loss_curves(comparison: Comparison, losses: Losses) -> str:
    """Draw the losses of every row that was trained; empty without any."""
    shown = [
        figure(plot(values, f"{row.strategy}, {term}"), f"{row.strategy}, {term.replace('_', ' ')}")
        for row in comparison.rows
        for term, values in losses.get((comparison.name, row.strategy), {}).items()
        if values
    ]
    if not shown:
        return ""
    return f"{heading('Losses')}\n{note(READING)}\n{multiples(shown, 'curves')}"


def plot(values: Sequence[float], name: str) -> str:
    """Draw one falling (or not) curve over a run, with its first and last value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return canvas.picture(
            [canvas.text(0, 20, "not finite")],
            width=WIDTH,
            height=30,
            title=f"Loss of {name}",
            description="Not a number at any time.",
        )
    low, high = min(0.0, min(finite)), max(finite)
    scale = (HEIGHT - TOP - BOTTOM) / ((high - low) or 1.0)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values) - 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) * scale

    end = LEFT + step * (len(values) - 1)
    parts = [canvas.line(LEFT, y(0.0), end, y(0.0), "axis")]
    for run in canvas.runs(values):
        parts.append(canvas.polyline([(LEFT + step * i, y(values[i])) for i in run], "curve"))
        if len(run) == 1:
            parts.append(canvas.circle(LEFT + step * run[0], y(values[run[0]]), 2, "dot"))
    parts += [
        canvas.text(LEFT - 5, y(finite[0]) + 4, f"{finite[0]:.3g}", "soft", "end"),
        canvas.text(end + 5, y(finite[-1]) + 4, f"{finite[-1]:.3g}", "soft"),
    ]
    return canvas.picture(
        parts,
        width=WIDTH,
        height=HEIGHT,
        title=f"Loss of {name}",
        description=f"From {finite[0]:.3g} to {finite[-1]:.3g}.",
    )

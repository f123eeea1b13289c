"""Small pictures as inline SVG: they take the page's colours, in light and in dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import attrs

from pktkit.report import numbers

WIDTH = 380.0
CURVE_WIDTH = 190.0
ROW = 24.0
_NAME_WIDTH = 110.0
_NAME_LETTERS = 17
_MARGIN = 8.0


@attrs.frozen
class Span:
    """One line of a forest plot.

    Arguments:
        name: at the left.
        middle, low, high: estimate and interval, in points.
        kind: `better`, `worse` or `open` (the interval holds 0).
    """

    name: str
    middle: float
    low: float
    high: float

    @property
    def kind(self) -> str:
        """Which side of 0 the whole interval is on."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "open"


def forest(spans: Sequence[Span], *, title: str) -> str:
    """Draw estimates with their intervals around a line at 0.

    Whether an interval holds 0 is told by shape (filled or hollow) as well as by colour.
    """
    low = min(0.0, *(span.low for span in spans))
    high = max(0.0, *(span.high for span in spans))
    ticks = _ticks(low, high)
    scale = (WIDTH - _NAME_WIDTH - _MARGIN) / ((high - low) or 1.0)
    height = ROW * len(spans) + 22

    def x(value: float) -> float:
        return _NAME_WIDTH + (value - low) * scale

    parts = []
    for tick in ticks:
        kind = "zero" if tick == 0 else "axis"
        parts.append(_line(x(tick), 4, x(tick), height - 18, kind))
        parts.append(_text(x(tick), height - 4, _tick(tick), "soft", "middle"))
    for place, span in enumerate(spans):
        y = ROW * place + ROW / 2 + 4
        parts.append(_text(0, y + 4, _cut(span.name)))
        parts.append(_line(x(span.low), y, x(span.high), y, f"bar {span.kind}"))
        hollow = ' style="fill:var(--paper)"' if span.kind == "open" else ""
        place_x = f'cx="{x(span.middle):.1f}" cy="{y:.1f}"'
        parts.append(f'<circle class="bar {span.kind}" {place_x} r="4"{hollow}/>')
    return _svg(parts, height, title)


def curve(values: Sequence[float], *, title: str) -> str:
    """Draw one falling (or not) curve over a run, with its first and last value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _svg([_text(0, 20, "not finite")], 30, title, CURVE_WIDTH)
    low, high = min(0.0, min(finite)), max(finite)
    height, top, left, right = 74.0, 10.0, 36.0, 40.0
    scale = (height - top - 10) / ((high - low) or 1.0)
    step = (CURVE_WIDTH - left - right) / max(1, len(values) - 1)

    def y(value: float) -> float:
        return height - 10 - (value - low) * scale

    points = [f"{left + step * i:.1f},{y(v):.1f}" for i, v in enumerate(values) if math.isfinite(v)]
    end = left + step * (len(values) - 1)
    parts = [
        _line(left, y(0.0), end, y(0.0), "axis"),
        f'<polyline class="curve" points="{" ".join(points)}"/>',
        _text(left - 5, y(finite[0]) + 4, f"{finite[0]:.3g}", "soft", "end"),
        _text(end + 5, y(finite[-1]) + 4, f"{finite[-1]:.3g}", "soft"),
    ]
    return _svg(parts, height, title, CURVE_WIDTH)


def _ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers between both ends, 0 among them."""
    rough = (high - low) / 5 or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [step * i for i in range(first, last + 1)]


def _tick(value: float) -> str:
    text = numbers.signed(value)
    return text.removesuffix(".0")


def _svg(parts: Sequence[str], height: float, title: str, width: float = WIDTH) -> str:
    return (
        f'<svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'aria-label="{html.escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{html.escape(text)}</text>"
    )


def _cut(name: str) -> str:
    return name if len(name) <= _NAME_LETTERS else f"{name[: _NAME_LETTERS - 1]}…"

"""Inline SVG that takes the page's colours, in light and in dark, and is described in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pktkit.report import numbers
from pktkit.report.page.elements import escape

LETTER = 6.4
"""Mean width of a letter of the type in pictures, in their own units."""


def picture(
    parts: Sequence[str], *, width: float, height: float, title: str, description: str = ""
) -> str:
    """Return a picture.

    Arguments:
        parts: SVG elements.
        width, height: in the units of the parts; the page scales the picture.
        title: what it is, its accessible name.
        description: what it shows, in figures.
    """
    words = f"<title>{escape(title)}</title>"
    if description:
        words += f"<desc>{escape(description)}</desc>"
    size = f"0 0 {width:.0f} {height:.0f}"
    return f'<svg role="img" viewBox="{size}">{words}{"".join(parts)}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return words that start, end or are centred at a place."""
    named = f' class="{kind}"' if kind else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def circle(x: float, y: float, radius: float, kind: str) -> str:
    """Return a dot."""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a rectangle."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def polyline(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return connected points."""
    return f'<polyline class="{kind}" points="{_points(points)}"/>'


def polygon(points: Sequence[tuple[float, float]], kind: str) -> str:
    """Return the area inside of points."""
    return f'<polygon class="{kind}" points="{_points(points)}"/>'


def hint(part: str, words: str) -> str:
    """Return a part that shows words when it is pointed at."""
    return f"<g><title>{escape(words)}</title>{part}</g>"


def cut(name: str, width: float) -> str:
    """Shorten a name to a width."""
    letters = max(2, int(width / LETTER))
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return about so many round numbers between two ends; 0 is one of them where it is inside."""
    rough = (high - low) / about or 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * i for i in range(first, last + 1)]


def signed(value: float) -> str:
    """Write a tick of differences."""
    return numbers.signed(value).removesuffix(".0")


def plain(value: float) -> str:
    """Write a tick of scores."""
    return numbers.points(value).removesuffix(".0")


def runs(values: Sequence[float | None]) -> Iterator[list[int]]:
    """Yield the positions of values that follow each other without a gap."""
    run: list[int] = []
    for place, value in enumerate(values):
        if value is not None and math.isfinite(value):
            run.append(place)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)

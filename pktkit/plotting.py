"""Figures of analyses, drawn in one style: heat maps, lines and bars, as PNG bytes.

Matplotlib is imported when something is drawn, through its object-oriented API: no window, no
global state. Figures are narrow with large type, so that they can be read on a phone; colours are
Okabe and Ito's and viridis, which colour-blind readers can tell apart, and no two lines differ in
colour alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.converters import as_tuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 5.6
"""Of every figure, in inches."""

DPI = 160
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C8C00")
MARKERS = "osD^vPX*"
DASHES = ("-", "--", "-.", ":")

CELLS_WITH_VALUES = 150
"""Heat maps with at most this many cells have their values written in."""

LABELLED_ROWS = 16
"""Rows of a heat map that are labelled at most."""

_STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "svg.hashsalt": "pktkit",
}


@attrs.frozen(eq=False)
class HeatMap:
    """One panel of coloured cells.

    Arguments:
        title: above the panel.
        values: rows of numbers; NaN leaves a cell empty.
        rows, columns: labels of both directions.
        row_title, column_title: what the directions are.
    """

    title: str
    values: Sequence[Sequence[float]]
    rows: tuple[str, ...] = attrs.field(converter=as_tuple)
    columns: tuple[str, ...] = attrs.field(converter=as_tuple)
    row_title: str = ""
    column_title: str = ""


@attrs.frozen(eq=False)
class Line:
    """One line; lines with the same `style` share colour and marker and differ in dashes.

    Arguments:
        label: in the legend; empty for none.
        values: one per tick; NaN leaves a gap.
        style: index of colour and marker.
        faint: thin, dashed and without markers: a control.
        low, high: ends of a band around the values, one per tick; empty for none.
    """

    label: str
    values: Sequence[float]
    style: int = 0
    faint: bool = False
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@attrs.frozen(eq=False)
class Panel:
    """Lines over the same ticks.

    Arguments:
        title: above the panel.
        ticks: labels along the horizontal axis.
        lines: what is drawn.
    """

    title: str
    ticks: tuple[str, ...] = attrs.field(converter=as_tuple)
    lines: tuple[Line, ...] = attrs.field(converter=as_tuple)


def heat_maps(
    maps: Sequence[HeatMap], *, low: float = 0.0, high: float = 1.0, label: str, digits: int = 2
) -> bytes:
    """Draw panels below each other, or two side by side where they are small.

    Arguments:
        maps: the panels.
        low, high: values of the darkest and the brightest colour.
        label: of the colour bar.
        digits: decimals of values written into cells.
    """
    across = 2 if len(maps) > 1 and all(len(each.columns) <= 8 for each in maps) else 1
    down = math.ceil(len(maps) / across)
    heights = [
        max(_rows_height(each, across) for each in maps[row * across : (row + 1) * across])
        for row in range(down)
    ]
    with _figure(sum(heights) + 0.35) as figure:
        grid = figure.subplots(down, across, squeeze=False, height_ratios=heights)
        image: Any = None
        for place, (axes, each) in enumerate(zip(grid.flat, maps, strict=False)):
            image = _heat_map(axes, each, low, high, digits, cell_width=WIDTH / across)
            if place % across and each.rows == maps[place - 1].rows:
                axes.set_yticklabels([])
                axes.set_ylabel("")
        for axes in list(grid.flat)[len(maps) :]:
            axes.set_axis_off()
        bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.7, aspect=40, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
        return _png(figure)


def lines(
    panels: Sequence[Panel],
    *,
    label: str,
    across: str,
    span: tuple[float, float] | None = None,
    zero: bool = True,
    room: float = 0.0,
) -> bytes:
    """Draw panels of lines below each other, with one legend.

    Arguments:
        panels: from top to bottom.
        label: of the vertical axis; across: of the horizontal one.
        span: of the vertical axis; by default what the values need.
        zero: whether there is a line at 0.
        room: further inches of height, for a legend of many lines.
    """
    legend: dict[str, Any] = {}
    with _figure(2.5 * len(panels) + 0.6 + room) as figure:
        grid = figure.subplots(len(panels), 1, squeeze=False, sharey=True)
        for axes, panel in zip(grid[:, 0], panels, strict=True):
            for line in panel.lines:
                handle = _line(axes, line)
                if line.label:
                    legend.setdefault(line.label, handle)
            _ticks(axes, panel.ticks)
            axes.set_xlim(-0.3, len(panel.ticks) - 0.7)
            axes.set_title(panel.title, loc="left")
            axes.set_ylabel(label)
            axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
            if zero:
                axes.axhline(0, color="#888888", linewidth=0.8)
            if span is not None:
                axes.set_ylim(*span)
        grid[-1, 0].set_xlabel(across)
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=2, fontsize=9.5
        )
        return _png(figure)


def bars(
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    names: Sequence[str],
    notes: Sequence[str],
    label: str,
    title: str,
) -> bytes:
    """Draw horizontal bars from 0 with an interval and a note each, the first one on top.

    Arguments:
        values, low, high: length of each bar, ends of its interval.
        names: left of the bars; notes: at the right border.
        label: of the horizontal axis.
    """
    with _figure(0.9 + max(0.19, 0.34 - 0.004 * len(values)) * len(values)) as figure:
        axes = figure.subplots()
        places = range(len(values))
        below = [max(0.0, value - least) for value, least in zip(values, low, strict=True)]
        above = [max(0.0, most - value) for value, most in zip(values, high, strict=True)]
        axes.barh(places, values, color=COLOURS[4], height=0.66)
        axes.errorbar(
            values, places, xerr=[below, above], fmt="none", ecolor="#222222", capsize=3, lw=1.3
        )
        axes.set_yticks(places, names)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_title(title, loc="left")
        axes.tick_params(axis="y", length=0)
        for place, note in zip(places, notes, strict=True):
            axes.annotate(
                note, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9
            )
        return _png(figure)


class _figure:
    """A figure in the house's style; use as a context manager."""

    def __init__(self, height: float) -> None:
        import matplotlib

        self._style = matplotlib.rc_context(_STYLE)
        self._height = height

    def __enter__(self) -> Figure:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._style.__enter__()
        figure = Figure(figsize=(WIDTH, self._height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure

    def __exit__(self, *error: Any) -> None:
        self._style.__exit__(*error)


def _png(figure: Figure) -> bytes:
    """Return the figure as PNG; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(
        file, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    return file.getvalue()


def _rows_height(each: HeatMap, across: int) -> float:
    """Return how high a panel should be, in inches, so that its values can be read."""
    row = 0.27 if _has_values(each) else max(0.11, min(0.27, 3.2 / max(1, len(each.rows))))
    return 0.85 + row * len(each.rows) + 0.1 * (across == 1)


def _has_values(each: HeatMap) -> bool:
    return len(each.rows) * len(each.columns) <= CELLS_WITH_VALUES


def _heat_map(
    axes: Axes, each: HeatMap, low: float, high: float, digits: int, *, cell_width: float
) -> Any:
    image = axes.imshow(each.values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set_title(each.title, loc="left")
    axes.set_xlabel(each.column_title)
    axes.set_ylabel(each.row_title)
    _ticks(axes, each.columns)
    stride = _stride(len(each.rows), LABELLED_ROWS)
    axes.set_yticks(range(len(each.rows))[::stride])
    axes.set_yticklabels(each.rows[::stride])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if _has_values(each):
        room = (cell_width - 1.0) / max(1, len(each.columns))
        size = max(6.0, min(9.5, 24.0 * room))
        for row, values in enumerate(each.values):
            for column, value in enumerate(values):
                _write(axes, row, column, value, (value - low) / (high - low), size, digits)
    return image


def _write(
    axes: Axes, row: int, column: int, value: float, share: float, size: float, digits: int
) -> None:
    """Write a value into its cell, dark on bright and bright on dark; a missing one is a dash."""
    missing = not math.isfinite(value)
    text = "–" if missing else f"{value:.{digits}f}".replace("-0.00", "0.00").replace("-", "−")
    colour = "#555555" if missing else ("black" if share > 0.55 else "white")
    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def _line(axes: Axes, line: Line) -> Any:
    places = range(len(line.values))
    colour = COLOURS[line.style % len(COLOURS)]
    if line.low:
        shade = 0.07 if line.faint else 0.18
        axes.fill_between(places, line.low, line.high, color=colour, alpha=shade, linewidth=0)
    if line.faint:
        (drawn,) = axes.plot(places, line.values, color=colour, linestyle=":", linewidth=1.3)
        return drawn
    (drawn,) = axes.plot(
        places,
        line.values,
        color=colour,
        marker=MARKERS[line.style % len(MARKERS)],
        linestyle=DASHES[(line.style // len(COLOURS)) % len(DASHES)],
        markersize=5,
        linewidth=1.8,
    )
    return drawn


def _ticks(axes: Axes, labels: Sequence[str]) -> None:
    """Label the horizontal axis, leaving labels out where they would touch."""
    longest = max((len(label) for label in labels), default=1)
    stride = _stride(len(labels), max(4, 44 // max(2, longest)))
    axes.set_xticks(range(len(labels))[::stride])
    axes.set_xticklabels(labels[::stride])


def _stride(count: int, most: int) -> int:
    return max(1, math.ceil(count / most))

"""The table for the terminal, with the verdict below it."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pktkit.report import columns, curves
from pktkit.report.curves import Curve
from pktkit.report.records import Comparison, Role, Summary
from pktkit.report.verdict import verdict_sentences

WIDTH = 120
_STYLES = {Role.METHOD: "bold", Role.PLACEBO: "dim", Role.BASELINE: "", Role.TARGET: "cyan"}


def render_table(summary: Summary, *, styled: bool = False, width: int = WIDTH) -> str:
    """Return tables and verdicts as text for a terminal.

    Arguments:
        styled: with rules and ANSI colours; else plain text.
        width: columns of the terminal; lines are wrapped there.
    """
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=styled,
        no_color=not styled,
        color_system="standard" if styled else None,
        highlight=False,
        legacy_windows=False,
    )
    groups = curves.grouped(curves.curves(summary))
    for group in groups:
        _print_curves(console, group, styled)
    for position, comparison in enumerate(_shown(summary, curved=bool(groups))):
        if position:
            console.print()
        _print(console, comparison, styled)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _shown(summary: Summary, *, curved: bool) -> list[Comparison]:
    """Return what is printed in full: below curves, each task's last point, else everything."""
    if not curved:
        return list(summary.comparisons)
    return list({comparison.task: comparison for comparison in summary.comparisons}.values())


def _print_curves(console: Console, group: Sequence[Curve], styled: bool) -> None:
    console.print(Text(curves.title(group[0]), style="bold" if styled else ""))
    table = Table(box=SIMPLE_HEAD if styled else None, pad_edge=False, padding=(0, 1))
    for place, heading in enumerate(curves.headings(group)):
        table.add_column(heading, justify="right" if place else "left")
    for curve, cells in zip(group, curves.body(group), strict=True):
        style = _STYLES.get(curve.role, "") if styled else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console.print(table)
    for text in (curves.note(group[0]), "The last point in full below, all points in report.md."):
        console.print(Text(text, style="dim" if styled else ""))
    console.print()


def _print(console: Console, comparison: Comparison, styled: bool) -> None:
    console.print(Text(columns.title(comparison), style="bold" if styled else ""))
    console.print(_table(comparison, styled))
    for note in columns.notes(comparison):
        console.print(Text(note, style="dim" if styled else ""))
    console.print()
    console.print(Text("verdict", style="bold" if styled else ""))
    for sentence in verdict_sentences(comparison):
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))


def _table(comparison: Comparison, styled: bool) -> Table:
    table = Table(box=SIMPLE_HEAD if styled else None, pad_edge=False, padding=(0, 1))
    for heading in columns.headings(comparison):
        if heading == "strategy":
            table.add_column(heading, justify="left", overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row, cells in zip(comparison.rows, columns.body(comparison), strict=True):
        style = _STYLES.get(row.role, "") if styled else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table

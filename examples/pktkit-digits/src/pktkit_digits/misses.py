"""The report section: how far off wrong answers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pktkit.outcomes import ReportSection
from pktkit.report.rundir import RunDirectory
from pktkit_digits.evaluator import whole_number
from pktkit_digits.task import task

if TYPE_CHECKING:
    from pktkit.outcomes import CellResult, ComparisonRecord

COLUMNS = ("right", "off by 1", "off by 2", "further off", "no number")


def section(comparison: ComparisonRecord) -> ReportSection:
    """Return a table of answers by distance, in per cent, over all seeds of each strategy."""
    answers = {
        item.id: int(item.answer) for item in task().items(comparison.results["plan"]["split"])
    }
    # The last result of a cell counts: one that failed may have been run again.
    cells = {cell.key: cell for cell in RunDirectory(Path(comparison.run_directory)).cells()}
    counts: dict[str, Counter[str]] = {}
    for cell in cells.values():
        if cell.key.task == "compose-near" and not cell.failed:
            counts.setdefault(cell.key.strategy, Counter()).update(columns(cell, answers))
    order = [row["strategy"] for row in comparison.results["scores"]["compose-near"]["rows"]]
    rows = [_row(name, counts[name]) for name in order if name in counts]
    head = ["| strategy | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    words = "Answers by their distance from the right one, in per cent, over all seeds."
    return ReportSection("How far off the answers are", "\n".join([words, "", *head, *rows]))


def columns(cell: CellResult, answers: dict[str, int]) -> Iterator[str]:
    """Yield the column of every answer of a cell."""
    for score in cell.scores:
        number = whole_number(score.prediction)
        if number is None:
            yield "no number"
        else:
            yield COLUMNS[min(3, abs(number - answers[score.item]))]


def _row(strategy: str, count: Counter[str]) -> str:
    shares = [f"{100 * count[column] / count.total():.1f}" for column in COLUMNS]
    return f"| {strategy} | " + " | ".join(shares) + " |"

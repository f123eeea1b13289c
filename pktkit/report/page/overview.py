"""Several tasks side by side: scores in one table, differences in a panel per task."""

from __future__ import annotations

from collections.abc import Sequence

from pktkit.report import numbers
from pktkit.report.page.document import Block
from pktkit.report.page.elements import figure, multiples, note, table
from pktkit.report.page.forest import HOLLOW, Frame, plot, reference_spans
from pktkit.report.records import Comparison, Row
from pktkit.report.verdict import name_of

READING = "Score in percent; in brackets the difference to {reference}, in points."


def overview_block(comparisons: Sequence[Comparison]) -> Block:
    """Return tasks next to each other, all differences on one scale."""
    strategies = list(dict.fromkeys(row.strategy for c in comparisons for row in c.rows))
    found = {(c.name, row.strategy): row for c in comparisons for row in c.rows}
    roles = {row.strategy: str(row.role) for c in comparisons for row in c.rows}
    drawn = table(
        ["strategy", *(comparison.name for comparison in comparisons)],
        [[s, *(_score(found.get((c.name, s))) for c in comparisons)] for s in strategies],
        kinds=[roles[strategy] for strategy in strategies],
        label="scores by task",
    )
    parts = [drawn, note(READING.format(reference=_reference(comparisons))), _panels(comparisons)]
    return Block("Across tasks", "\n".join(part for part in parts if part))


def _panels(comparisons: Sequence[Comparison]) -> str:
    panels = [(c, spans) for c in comparisons if (spans := reference_spans(c))]
    if not panels:
        return ""
    everything = [span for _, spans in panels for span in spans]
    frame = Frame.around(everything, width=270.0, names=100.0)
    figures = []
    for comparison, spans in panels:
        name = name_of(comparison, comparison.reference)
        title = f"Forest plot of {comparison.name}: difference to {name}"
        figures.append(figure(plot(spans, title, frame), f"{comparison.name}: Δ to {name}"))
    text = f"Points, with {panels[0][0].level:g} % interval; all panels have one scale. {HOLLOW}"
    return f"{note(text)}\n{multiples(figures)}"


def _score(row: Row | None) -> str:
    if row is None:
        return numbers.ABSENT
    if row.failed is not None:
        return "failed"
    score = numbers.percent(row.mean, row.deviation)
    return score if row.against is None else f"{score} ({numbers.signed(row.against.points)})"


def _reference(comparisons: Sequence[Comparison]) -> str:
    names = dict.fromkeys(name_of(c, c.reference) for c in comparisons if c.reference)
    return " or ".join(names) or "the reference"

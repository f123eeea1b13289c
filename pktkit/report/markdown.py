"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from pktkit.outcomes import ReportSection
from pktkit.report import budgets, columns, details
from pktkit.report.figures import figure_files
from pktkit.report.records import Comparison, Summary
from pktkit.report.verdict import verdict_sentences


def render_markdown(summary: Summary, sections: Sequence[ReportSection] = ()) -> str:
    """Return one section per task, then the sections that plugins added.

    Figures are linked by the names that `figure_files` gives them.
    """
    parts = ["# Comparison", *(_task(comparison) for comparison in summary.comparisons)]
    for section, figures in zip(sections, figure_files(sections), strict=True):
        parts.append(f"## {_escape(section.title)}\n\n{section.markdown.strip()}")
        parts += [f"![{_escape(f.alt)}]({name})\n\n{_escape(f.caption)}" for name, f in figures]
    return "\n\n".join(parts) + "\n"


def _task(comparison: Comparison) -> str:
    table = [
        _line(columns.headings(comparison)),
        "|--:|:--|" + "--:|" * (len(columns.headings(comparison)) - 2),
        *(_line(cells) for cells in columns.body(comparison)),
    ]
    notes = [_escape(note) for note in columns.notes(comparison)]
    claims = [f"- {_escape(sentence)}" for sentence in verdict_sentences(comparison)]
    return "\n\n".join(
        [
            f"## {_escape(columns.title(comparison))}",
            "\n".join(table),
            *notes,
            "**Verdict**",
            "\n".join(claims),
            *_details(comparison),
            *_budget(comparison),
        ]
    )


def _details(comparison: Comparison) -> list[str]:
    """Return every contrast and the noise of repeated runs, where there are any."""
    parts = []
    if contrasts := details.body(comparison):
        table = _table(details.headings(comparison), contrasts, names=2)
        parts += ["**Contrasts**", table, _escape(details.NOTE)]
    if repeated := details.repeats(comparison):
        table = _table(details.REPEATS_HEADINGS, repeated, names=1)
        parts += ["**Repeated runs**", table, _escape(details.REPEATS_NOTE)]
    return parts


def _table(headings: Sequence[str], body: Sequence[Sequence[str]], *, names: int) -> str:
    """Return a table whose first `names` columns are text and the others figures."""
    rule = "|" + ":--|" * names + "--:|" * (len(headings) - names)
    return "\n".join([_line(headings), rule, *(_line(cells) for cells in body)])


def _budget(comparison: Comparison) -> list[str]:
    """Return what the rows spent, as a table; nothing where nothing was injected."""
    if budgets.reference_row(comparison) is None:
        return []
    table = _table(budgets.HEADINGS, budgets.body(comparison), names=1)
    return ["**Budget**", table, _escape(budgets.NOTE)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(text: str) -> str:
    """Escape what Markdown or HTML would read as markup, so that it shows as written."""
    text = text.replace("\\", "\\\\")
    for character in "|[]*_<`":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())

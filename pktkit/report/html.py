"""The report as one HTML file that asks for nothing else: no script, no font, no request."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from pktkit.outcomes import Figure, ReportSection
from pktkit.report import budgets, columns, numbers, svg
from pktkit.report.losses import Losses
from pktkit.report.records import Comparison, Row, Summary
from pktkit.report.verdict import name_of, verdict_sentences


def render_html(
    summary: Summary, sections: Sequence[ReportSection] = (), losses: Losses | None = None
) -> str:
    """Return the report of a comparison: each task, then the sections that plugins added."""
    parts = [_facts(summary.plan)]
    parts += [_task(comparison, losses or {}) for comparison in summary.comparisons]
    parts += [section_html(section) for section in sections]
    names = ", ".join(comparison.name for comparison in summary.comparisons)
    return page(f"Comparison on {names}" if names else "Comparison", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole document; `parts` are HTML, the title is text."""
    shown = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="generator" content="pktkit">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{shown}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{shown}</h1>\n" + "\n".join(part for part in parts if part) + "\n</main>\n</body>\n"
        "</html>\n"
    )


def section_html(section: ReportSection) -> str:
    """Return a section with its figures inside; its Markdown is rendered, HTML in it escaped."""
    figures = "\n".join(_picture(figure) for figure in section.figures)
    return (
        f"<section>\n<h2>{html.escape(section.title)}</h2>\n"
        f"{_markdown(section.markdown)}\n{figures}\n</section>"
    )


def facts_html(facts: Sequence[str]) -> str:
    """Return facts about a run as one line; nothing without any."""
    return f'<p class="facts">{html.escape(" · ".join(facts))}</p>' if facts else ""


def table_html(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    head: int = 0,
    kinds: Sequence[str] = (),
    label: str,
) -> str:
    """Return a table in a box of its own that scrolls.

    Arguments:
        head: the column that names the row; columns after it hold figures.
        kinds: a class per row.
        label: what the table is, for screen readers.
    """

    def cell(text: str, column: int) -> str:
        if column == head:
            return f'<th scope="row">{html.escape(text)}</th>'
        return f'<td class="number">{html.escape(text)}</td>'

    heads = "".join(
        f'<th scope="col"{"" if column == head else _NUMBER}>{html.escape(text)}</th>'
        for column, text in enumerate(headings)
    )
    lines = []
    for place, row in enumerate(rows):
        kind = f' class="{html.escape(kinds[place], quote=True)}"' if kinds else ""
        cells = "".join(cell(text, column) for column, text in enumerate(row))
        lines.append(f"<tr{kind}>{cells}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{html.escape(label, quote=True)}">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>\n</div>"
    )


_NUMBER = ' class="number"'


def _task(comparison: Comparison, losses: Losses) -> str:
    title = columns.title(comparison)
    table = table_html(
        columns.headings(comparison),
        columns.body(comparison),
        head=1,
        kinds=[str(row.role) for row in comparison.rows],
        label=title,
    )
    notes = "\n".join(f'<p class="note">{html.escape(n)}</p>' for n in columns.notes(comparison))
    claims = "\n".join(f"<li>{html.escape(s)}</li>" for s in verdict_sentences(comparison))
    return (
        f"<section>\n<h2>{html.escape(title)}</h2>\n{table}\n{notes}\n"
        f"<h3>Verdict</h3>\n<ul>\n{claims}\n</ul>\n"
        f"{_forest(comparison)}\n{_budget(comparison)}\n{_curves(comparison, losses)}\n</section>"
    )


def _budget(comparison: Comparison) -> str:
    if budgets.reference_row(comparison) is None:
        return ""
    table = table_html(
        budgets.HEADINGS,
        budgets.body(comparison),
        kinds=[str(row.role) for row in comparison.rows],
        label=f"budgets on {comparison.name}",
    )
    return f'<h3>Budget</h3>\n{table}\n<p class="note">{html.escape(budgets.NOTE)}</p>'


def _forest(comparison: Comparison) -> str:
    found = [(row.strategy, c) for row in comparison.rows if (c := row.against)]
    if not found:
        return ""
    spans = [svg.Span(name, c.points, c.interval.low, c.interval.high) for name, c in found]
    alt = "; ".join(f"{name} {numbers.delta(c.points, c.interval)}" for name, c in found)
    caption = (
        f"Difference to {name_of(comparison, comparison.reference)} in points, with "
        f"{comparison.level:g} % interval. "
        "A hollow circle: the interval holds 0."
    )
    picture = svg.forest(spans, title=f"Forest plot. {alt}")
    heading = html.escape(f"Δ to {name_of(comparison, comparison.reference, short=True)}")
    return f"<h3>{heading}</h3>\n{_figure(picture, caption)}"


def _curves(comparison: Comparison, losses: Losses) -> str:
    shown = [
        _figure(
            svg.curve(values, title=f"{row.strategy}, {term}: {values[0]:.3g} to {values[-1]:.3g}"),
            f"{row.strategy}, {term.replace('_', ' ')}",
        )
        for row in comparison.rows
        for term, values in _losses_of(row, comparison, losses).items()
        if values
    ]
    if not shown:
        return ""
    return (
        "<h3>Losses</h3>\n"
        '<p class="note">Mean over each tenth of a run and over seeds; first and last are '
        f'written out.</p>\n<div class="curves">\n{chr(10).join(shown)}\n</div>'
    )


def _losses_of(row: Row, comparison: Comparison, losses: Losses) -> Mapping[str, Sequence[float]]:
    return losses.get((comparison.name, row.strategy), {})


def _figure(picture: str, caption: str) -> str:
    return f"<figure>\n{picture}\n<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def _picture(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    alt = html.escape(figure.alt, quote=True)
    return _figure(f'<img alt="{alt}" src="data:image/png;base64,{data}">', figure.caption)


def _facts(plan: Mapping[str, Any]) -> str:
    """Return one line on what was compared, as far as the plan says it."""
    pair = plan.get("pair")
    facts = []
    if isinstance(pair, Mapping):
        facts += [f"source {pair.get('source')}", f"target {pair.get('target')}"]
        facts += [str(pair[key]) for key in ("dtype", "device") if pair.get(key)]
    if plan.get("split"):
        facts.append(f"scored on {plan['split']}")
    packages = plan.get("packages")
    if isinstance(packages, Mapping) and "pktkit" in packages:
        facts.append(f"pktkit {packages['pktkit']}")
    return facts_html(facts)


def _markdown(text: str) -> str:
    """Render Markdown; HTML is shown as text, pictures are not fetched, headings start at h3."""
    renderer: Any = _renderer()
    tokens = renderer.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    rendered = renderer.renderer.render(tokens, renderer.options, {}).strip()
    opened = '<div class="scroll" tabindex="0" role="region" aria-label="table">\n<table>'
    return str(rendered.replace("<table>", opened).replace("</table>", "</table>\n</div>"))


@cache
def _renderer() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


@cache
def _style() -> str:
    return resources.files("pktkit.report").joinpath("style.css").read_text(encoding="utf-8")

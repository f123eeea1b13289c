"""Sections that analyses and plugins contribute: Markdown and figures."""

from __future__ import annotations

from functools import cache
from typing import Any

from pktkit.outcomes import ReportSection
from pktkit.report.page.document import Block
from pktkit.report.page.elements import embedded, scrolling


def section_block(section: ReportSection) -> Block:
    """Return a section with its figures inside; its Markdown is rendered, HTML in it escaped."""
    parts = [_markdown(section), *(embedded(figure) for figure in section.figures)]
    return Block(section.title, "\n".join(part for part in parts if part))


def _markdown(section: ReportSection) -> str:
    """Render Markdown; HTML is shown as text, pictures are not fetched, headings start at h3."""
    renderer: Any = _renderer()
    tokens = renderer.parse(section.markdown)
    level = 2
    for token in tokens:
        if token.type == "heading_open":
            level = min(int(token.tag[1:]) + 2, level + 1, 6)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
    rendered = str(renderer.renderer.render(tokens, renderer.options, {})).strip()
    opened = f"{scrolling(f'table of {section.title}')}\n<table>"
    return rendered.replace("<table>", opened).replace("</table>", "</table>\n</div>")


@cache
def _renderer() -> Any:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

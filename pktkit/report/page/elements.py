"""Tables, figures and notes: small pieces of HTML made of text."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import attrs

from pktkit.outcomes import Figure


@attrs.frozen
class Cell:
    """Text of a table's cell with a class, such as `better`."""

    text: str
    kind: str = ""


def escape(text: str) -> str:
    """Return text so that a browser shows it as it is, between tags and in attributes."""
    return html.escape(text, quote=True)


def note(text: str) -> str:
    """Return a sentence in small type."""
    return f'<p class="note">{escape(text)}</p>'


def heading(text: str) -> str:
    """Return a heading inside of a block."""
    return f"<h3>{escape(text)}</h3>"


def folded(title: str, body: str) -> str:
    """Return HTML that a reader has to open."""
    return f"<details>\n<summary>{escape(title)}</summary>\n{body}\n</details>"


def figure(picture: str, caption: str) -> str:
    """Return a picture, given as HTML, with a caption."""
    return f"<figure>\n{picture}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def multiples(pictures: Sequence[str], kind: str = "multiples") -> str:
    """Return pictures side by side, as many in a row as the page has room for."""
    return f'<div class="{kind}">\n{chr(10).join(pictures)}\n</div>'


def embedded(picture: Figure) -> str:
    """Return a plugin's figure; its bytes stand in the page."""
    data = base64.b64encode(picture.png).decode("ascii")
    return figure(
        f'<img alt="{escape(picture.alt)}" src="data:image/png;base64,{data}">', picture.caption
    )


def scrolling(label: str) -> str:
    """Return the start tag of a box that scrolls, so that a wide table does not move the page.

    Arguments:
        label: what is inside, for screen readers.
    """
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str | Cell]],
    *,
    head: int = 0,
    words: int = 0,
    kinds: Sequence[str] = (),
    label: str,
) -> str:
    """Return a table in a box of its own that scrolls.

    Arguments:
        head: the column that names the row.
        words: so many columns after it hold words; all others hold figures.
        kinds: a class per row.
        label: what the table is, for screen readers.
    """

    def wordy(column: int) -> bool:
        return head <= column <= head + words

    def cell(given: str | Cell, column: int) -> str:
        one = given if isinstance(given, Cell) else Cell(given)
        if column == head:
            return f'<th scope="row"><span>{escape(one.text)}</span></th>'
        names = " ".join(x for x in ("" if wordy(column) else "number", one.kind) if x)
        return f"<td{_class(names)}>{escape(one.text)}</td>"

    heads = "".join(
        f'<th scope="col"{"" if wordy(column) else _class("number")}>{escape(text)}</th>'
        for column, text in enumerate(headings)
    )
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(cell(given, column) for column, given in enumerate(row))
        lines.append(f"<tr{_class(kinds[place] if kinds else '')}>{cells}</tr>")
    return (
        f"{scrolling(label)}\n<table>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>\n</div>"
    )


def _class(names: str) -> str:
    return f' class="{escape(names)}"' if names else ""

"""Plain aligned columns: the same in a terminal, in a pipe and in an issue."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Sequence


def table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, right: Collection[int] = ()
) -> str:
    """Return rows as text with aligned columns.

    Columns of numbers are aligned to the right, and so are the columns named in `right`.
    """
    cells = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(_width(text) for text in column) for column in zip(headers, *cells, strict=True)]
    to_right = [
        i in right or (bool(rows) and all(_is_number(row[i]) for row in rows))
        for i in range(len(headers))
    ]
    lines = [headers, *cells]
    return "\n".join(
        "  ".join(
            _padded(text, width, flush)
            for text, width, flush in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _shown(cell: object) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return str(cell)


def _is_number(cell: object) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _width(text: str) -> int:
    """Return how many terminal columns a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _padded(text: str, width: int, to_right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if to_right else text + space

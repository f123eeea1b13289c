"""Names of the files that hold the figures of a report's sections."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pktkit.outcomes import Figure, ReportSection


def figure_files(sections: Sequence[ReportSection]) -> list[list[tuple[str, Figure]]]:
    """Return, for each section, its figures with file names that no two of them share."""
    taken: set[str] = set()
    files = []
    for section in sections:
        stem = slug(section.title)
        files.append([(_free(f"{stem}-{each.name}", taken), each) for each in section.figures])
    return files


def slug(title: str) -> str:
    """Return a title as part of a file name: lower-case ASCII letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:60] or "section"


def _free(stem: str, taken: set[str]) -> str:
    name, number = f"{stem}.png", 2
    while name in taken:
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name)
    return name

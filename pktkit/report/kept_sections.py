"""Sections of analyses kept beside a report, so that it can be written again without the models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pktkit.errors import UsageError
from pktkit.outcomes import Figure, ReportSection
from pktkit.report.figures import figure_files

SECTIONS = "sections.json"


def render_sections(sections: Sequence[ReportSection]) -> str:
    """Return sections as JSON; figures are named by the files that `figure_files` gives them."""
    records = [
        {
            "title": section.title,
            "markdown": section.markdown,
            "figures": [
                {"file": file, "name": each.name, "caption": each.caption, "alt": each.alt}
                for file, each in figures
            ],
        }
        for section, figures in zip(sections, figure_files(sections), strict=True)
    ]
    return json.dumps(records, indent=2, ensure_ascii=False) + "\n"


def read_sections(folder: Path) -> list[ReportSection]:
    """Read the sections of a run directory back; none where it has none.

    Raises:
        UsageError: the file or a figure is damaged or missing.
    """
    file = folder / SECTIONS
    if not file.exists():
        return []
    try:
        return [
            ReportSection(
                record["title"],
                record["markdown"],
                [
                    Figure(each["name"], (folder / each["file"]).read_bytes(), *_words(each))
                    for each in record["figures"]
                ],
            )
            for record in json.loads(file.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"{file} cannot be read ({error}). Remove it to write the report without analyses."
        ) from error


def _words(figure: dict[str, str]) -> tuple[str, str]:
    return figure["caption"], figure["alt"]

"""One summary, four formats."""

from __future__ import annotations

import os
from typing import TextIO

from pktkit.errors import unknown_name
from pktkit.report.csvfile import render_csv
from pktkit.report.jsonfile import render_json
from pktkit.report.markdown import render_markdown
from pktkit.report.records import Summary
from pktkit.report.table import WIDTH, render_table

FORMATS = ("table", "md", "json", "csv")


def render(summary: Summary, form: str, *, styled: bool = False, width: int = WIDTH) -> str:
    """Return a summary as text that ends with a newline.

    Arguments:
        form: one of `FORMATS`.
        styled, width: for the table only, see `render_table`; pass `wants_colour(sys.stdout)`.

    Raises:
        UsageError: there is no such format.
    """
    if form == "table":
        return render_table(summary, styled=styled, width=width)
    if form == "md":
        return render_markdown(summary)
    if form == "json":
        return render_json(summary)
    if form == "csv":
        return render_csv(summary)
    raise unknown_name("format", form, FORMATS)


def wants_colour(stream: TextIO) -> bool:
    """Return whether a stream is a terminal whose user has not set `NO_COLOR` (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")

"""What a comparison found: rows, paired contrasts, a verdict in words, and how to write them."""

from __future__ import annotations

from pktkit.report.records import Claim, Comparison, Contrast, Failure, Role, Row, Summary, Timing
from pktkit.report.render import FORMATS, render, wants_colour
from pktkit.report.rundir import RunDirectory
from pktkit.report.summary import summarise
from pktkit.report.verdict import verdict, verdict_sentences

__all__ = [
    "FORMATS",
    "Claim",
    "Comparison",
    "Contrast",
    "Failure",
    "Role",
    "Row",
    "RunDirectory",
    "Summary",
    "Timing",
    "render",
    "summarise",
    "verdict",
    "verdict_sentences",
    "wants_colour",
]

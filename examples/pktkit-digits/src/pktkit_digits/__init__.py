"""A pktkit plugin: partial credit for numbers, a strategy, and two observers.

Registration hooks return descriptors; what is heavy is imported when it is chosen. Observer hooks
are called for every run, so they return at once where they have nothing to do.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from pktkit.outcomes import ComparisonRecord, ReportSection, StageRecord

PKTKIT_API = 1

TRAIL = "PKTKIT_TRAIL"
"""Environment variable that names the file stages are written to; unset, none is written."""


@hookimpl
def pktkit_evaluators() -> list[Component]:
    """Register the evaluator."""
    return [
        Component(
            "near-number",
            "pktkit_digits.evaluator:NearNumber",
            "Greedy answer as a number: full marks when equal, fewer the further off it is.",
        )
    ]


@hookimpl
def pktkit_tasks() -> list[Component]:
    """Register the task that is scored by it."""
    return [
        Component(
            "compose-near",
            "pktkit_digits.task:task",
            "Nested operations on digits, with partial credit for near misses.",
        )
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the strategy, made of pktkit's own components."""
    return [
        Component(
            "steer-early",
            "pktkit_digits.strategy:STEER_EARLY",
            "latent steering that fades out over the first half of the run",
        )
    ]


@hookimpl
def pktkit_stage_finished(record: StageRecord) -> None:
    """Write one line of JSON per finished stage to the file that `PKTKIT_TRAIL` names."""
    path = os.environ.get(TRAIL)
    if path:
        from pktkit_digits.trail import append

        append(path, record)


@hookimpl
def pktkit_report_sections(comparison: ComparisonRecord) -> list[ReportSection]:
    """Say in the report how far off wrong answers are, where `compose-near` was run."""
    if "compose-near" not in comparison.results["scores"]:
        return []
    from pktkit_digits.misses import section

    return [section(comparison)]

"""The whole plugin contract: one page of pluggy hook specifications.

Registration hooks return lists of lazy `Component` descriptors, one hook per stage. Choosing one
component is by name in the registry. Observer hooks are called for every plugin and receive
immutable records.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from pktkit.components import Component

if TYPE_CHECKING:
    from pktkit.outcomes import ComparisonRecord, ReportSection, StageRecord

PROJECT = "pktkit"
ENTRY_POINT_GROUP = "pktkit"
API_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def pktkit_layer_matchers() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register layer matchers: classes with `match(pair, probe) -> LayerMap`."""


@hookspec
def pktkit_latent_aligners() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register latent aligners: classes with `align(pair, layer_map, probe) -> Alignment`."""


@hookspec
def pktkit_knowledge_injectors() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register injectors: classes with `inject(target, alignment, data, journal)`."""


@hookspec
def pktkit_evaluators() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register evaluators: classes with `evaluate(model, task, split) -> list[ItemScore]`."""


@hookspec
def pktkit_strategies() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register strategies: `pktkit.components.Strategy` values, or paths of recipe files."""


@hookspec
def pktkit_tasks() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register tasks: functions that return a `pktkit.tasks.base.Task`, or classes with options.

    A function takes no arguments. A class has `Options` and a method `task() -> Task`; what the
    user types after the name (`NAME:PROTOCOL@DATA?option=value`) becomes its options.
    """


@hookspec
def pktkit_analyses() -> Iterable[Component]:  # type: ignore[empty-body]
    """Register analyses: classes with `analyse(context) -> AnalysisResult`."""


@hookspec
def pktkit_stage_finished(record: StageRecord) -> None:
    """Observe that a stage of one cell (strategy, seed, task) has finished."""


@hookspec
def pktkit_report_sections(comparison: ComparisonRecord) -> Iterable[ReportSection]:  # type: ignore[empty-body]
    """Contribute sections to the report of a finished comparison."""

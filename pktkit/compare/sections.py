"""What stands in a report beside the rows: analyses of the pair, and what plugins contribute."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from pktkit.compare.plan import Plan, choose_task, templated
from pktkit.outcomes import ComparisonRecord, ReportSection
from pktkit.report.figures import slug
from pktkit.report.jsonfile import plain, results

if TYPE_CHECKING:
    from pktkit.compare.watcher import Watcher
    from pktkit.components import Choice
    from pktkit.registry import Registry
    from pktkit.report.records import Summary
    from pktkit.report.rundir import RunDirectory

log = structlog.get_logger(__name__)


def analysed(
    plan: Plan,
    registry: Registry,
    directory: RunDirectory,
    analyses: Sequence[Choice],
    *,
    cache: Path,
    watcher: Watcher,
) -> list[ReportSection]:
    """Run analyses on the pair, on every task, and write their data beside the report.

    They look at split `dev`, never at the items that are scored for the report. One that fails
    becomes a section with the reason.

    Raises:
        PktkitError: the pair cannot be loaded.
    """
    if not analyses:
        return []
    from pktkit.analysing import run_analyses
    from pktkit.analysis import AnalysisContext
    from pktkit.probe import Probe, ReadingCache

    pair = plan.pair.load()
    sections = []
    for name in plan.tasks:
        probe = Probe(
            pair,
            templated(choose_task(registry, name), plan.template),
            settings=plan.settings,
            cache=ReadingCache(cache, plan.settings.cache_bytes),
        )
        context = AnalysisContext(probe, registry, plan.seeds[0])

        def begun(choice: Choice, task: str = name) -> None:
            watcher.analysing(choice.name, task)

        for outcome in run_analyses(analyses, context, begun):
            title = f"{outcome.choice.name} · {name}"
            if outcome.result is None:
                log.warning("analysis failed", reason=str(outcome.error))
                sections.append(ReportSection(title, f"Failed: {outcome.error}"))
                continue
            section = outcome.result.section(f"{outcome.result.title} · {name}")
            sections.append(section)
            data = json.dumps(plain(outcome.result.data), indent=2, allow_nan=False)
            directory.write(f"{slug(section.title)}.json", f"{data}\n")
    return sections


def contributed(
    summary: Summary, registry: Registry, directory: RunDirectory
) -> list[ReportSection]:
    """Return the sections that plugins add; a plugin that fails is a warning and adds none."""
    record = ComparisonRecord(str(directory.path), results(summary))
    found = registry.plugins.collect("pktkit_report_sections", _read_sections, comparison=record)
    registry.plugins.emit_warnings(log.warning)
    return [section for _, sections in found for section in sections]


def _read_sections(result: Any) -> tuple[ReportSection, ...]:
    """Exhaust what a plugin returned; anything but sections is an error."""
    given: Iterable[Any] = (result,) if isinstance(result, ReportSection) else result
    sections = tuple(given)
    for section in sections:
        if not isinstance(section, ReportSection):
            raise TypeError(f"it must return ReportSection values, got {section!r}")
    return sections

"""The report as one HTML file that asks for nothing else: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Sequence

from pktkit.outcomes import ReportSection
from pktkit.report.losses import Losses
from pktkit.report.page.document import Block, document
from pktkit.report.page.learning import learning_blocks
from pktkit.report.page.overview import overview_block
from pktkit.report.page.plan import plan_blocks, plan_line
from pktkit.report.page.sections import section_block
from pktkit.report.page.tasks import task_block
from pktkit.report.page.verdicts import verdict_block
from pktkit.report.records import Comparison, Summary


def render_html(
    summary: Summary, sections: Sequence[ReportSection] = (), losses: Losses | None = None
) -> str:
    """Return the report of a comparison: verdict, learning curves, each task, further sections.

    The verdict is that of each task's last point; other points of a curve are there to be opened.

    Arguments:
        sections: of analyses and plugins; learning curves are drawn from the summary.
        losses: see `mean_losses`.
    """
    last = {comparison.task: comparison for comparison in summary.comparisons}
    shown = list(last.values())
    blocks = [verdict_block(shown)] if shown else []
    blocks += [overview_block(shown)] if len(shown) > 1 else []
    blocks += learning_blocks(summary)
    blocks += _tasks(summary, shown, losses or {})
    blocks += [section_block(section) for section in sections]
    blocks += plan_blocks(summary.plan)
    names = ", ".join(last)
    title = f"Comparison on {names}" if names else "Comparison"
    return document(title, blocks, plan_line(summary.plan))


def _tasks(summary: Summary, shown: Sequence[Comparison], losses: Losses) -> list[Block]:
    return [
        task_block(comparison, losses, closed=all(comparison is not c for c in shown))
        for comparison in summary.comparisons
    ]

"""`pktkit analyze`: figures of a pair, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from pktkit import logs
from pktkit.chosen_analyses import ALL, EVERY, apply_overrides, choose_analyses
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, model_options
from pktkit.components import Kind
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.analysing import Outcome
    from pktkit.analysis import AnalysisContext
    from pktkit.components import Choice


class _Command(click.Command):
    """A command whose help lists the registered analyses; their modules are not imported."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line per analysis."""
        registry = ctx.ensure_object(AppContext).silent_registry
        entries = [entry.component for entry in registry.entries(Kind.ANALYSIS)]
        with formatter.section("Analyses"):
            formatter.write_dl([(entry.name, entry.summary) for entry in entries] or [("-", "")])


@click.command(cls=_Command)
@click.argument("names", nargs=-1, metavar="[NAME ...|all]")
@click.option(
    "--task", "task_name", help=f"Task or file of rows. Default, embedded: {DEFAULT_TASK}."
)
@model_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--split",
    type=click.Choice(["dev", "test"]),
    default="dev",
    show_default=True,
    help="Whose tokens are looked at.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first N items only.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME.OPTION=VALUE",
    help=f"Change an option of an analysis, or with {EVERY}.OPTION of all that have it. "
    "Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="New or empty directory.")
@pass_app
def analyze(
    app: AppContext,
    names: tuple[str, ...],
    task_name: str | None,
    models: ModelChoice,
    seed: int,
    split: str,
    limit: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
) -> int:
    """Draw figures of a pair: PNG, JSON, and one HTML page with all of them.

    Without names, all analyses are run; without models, on the embedded pair. Both models are
    as before afterwards.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.compare.plan import choose_task
    from pktkit.report.analyses import write_analyses

    logs.configure(app.verbosity)
    registry = app.registry
    wanted = models.task_name(task_name)
    choices = apply_overrides(choose_analyses(registry, names or (ALL,)), overrides, registry)
    task = choose_task(registry, wanted)
    task = attrs.evolve(task, splits={**task.splits, split: task.items(split)[:limit]})
    directory = out or Path("runs") / f"analysis-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    require_writable(directory)

    from pktkit.analysis import AnalysisContext

    context = AnalysisContext(models.probe(task), registry, seed, split)
    outcomes = _run(app, choices, context)
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(failures) < len(outcomes):
        write_analyses(directory, outcomes, context)
        if app.verbosity >= 0:
            click.echo(f"wrote    {directory}", err=True)
    for failure in failures[1:]:
        click.echo(f"error: {failure}", err=True)
    if failures:
        raise failures[0]
    return 0


def _run(app: AppContext, choices: Sequence[Choice], context: AnalysisContext) -> list[Outcome]:
    """Run analyses, and show each as soon as it is done."""
    from pktkit.analysing import run_analyses

    outcomes = []
    for outcome in run_analyses(choices, context, lambda choice: _announce(app, choice)):
        _print(outcome)
        outcomes.append(outcome)
    return outcomes


def _announce(app: AppContext, choice: Choice) -> None:
    if app.verbosity >= 0:
        click.echo(f"analyze  {choice.name}", err=True)


def _print(outcome: Outcome) -> None:
    """Write an analysis' table to stdout."""
    result = outcome.result
    if result is None:
        return
    click.echo(f"{outcome.choice.name} · {result.title}")
    if result.table is not None:
        figures = range(1, len(result.table.headings))
        click.echo(table(result.table.headings, result.table.rows, right=figures))
    click.echo()

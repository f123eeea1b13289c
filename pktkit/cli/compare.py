"""`pktkit compare`: strategies and controls on equal terms."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from pktkit import logs
from pktkit.budget import EQUAL
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, gathered, model_options, names
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.compare.plan import Plan
    from pktkit.components import Choice
    from pktkit.report.records import Summary
    from pktkit.report.rundir import RunDirectory


@attrs.frozen
class Request:
    """What the options of a comparison were given; its models are a `ModelChoice`.

    Arguments:
        strategies: comma list of names or recipe files.
        tasks: comma list of names or files of rows; None for the embedded pair's.
        seeds: a count, or a comma list.
        overrides: each `[STRATEGY:]STAGE.OPTION=VALUE`.
        controls: whether baselines and placebos stand beside.
        split: where scores are read.
        analyses: comma list of analyses to add; None for none.
        limit: items scored per task; None for all.
        rows: comma list of training rows, a point of a curve each; None for the budget's.
        curve: `steps`, or `steps=` with a comma list; None for the budget's.
        equal: what all arms spend alike; None leaves each the steps of its budget.
        jobs: worker processes; 0 for none, None chooses.
        form: how the result is written to stdout.
        out: run directory; None for a new one under `runs`.
    """

    strategies: str
    tasks: str | None
    seeds: str
    overrides: tuple[str, ...]
    controls: bool
    split: str
    analyses: str | None
    limit: int | None
    rows: str | None
    curve: str | None
    equal: str | None
    jobs: int | None
    form: str
    out: Path | None


@click.command()
@click.option(
    "--strategies",
    required=True,
    help="Comma list of registered strategies or recipe files (.yaml).",
)
@click.option(
    "--task",
    "tasks",
    help=f"Comma list of tasks or files of rows; 'all' for every registered one. "
    f"Default with the embedded pair: {DEFAULT_TASK}.",
)
@click.option("--seeds", default="3", show_default=True, help="How many, or a list such as 0,7.")
@model_options
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="[STRATEGY:]STAGE.OPTION=VALUE",
    help="Change an option, e.g. aligner.map=unit or budget.steps=100. Repeatable.",
)
@click.option("--controls/--no-controls", default=True, help="Baselines and placebos beside.")
@click.option(
    "--split",
    type=click.Choice(["test", "dev"]),
    default="test",
    show_default=True,
    help="Where scores are read; choose settings on dev.",
)
@click.option("--analyze", "analyses", help="Comma list of analyses to add; 'all' for every one.")
@click.option("--limit", type=click.IntRange(min=1), help="Score only the first N items.")
@click.option("--rows", help="Score against training rows: run at each, e.g. 16,64,256,1024.")
@click.option("--curve", help="Score against steps: 'steps' (1/4, 1/2, all) or steps=50,100,200.")
@click.option(
    "--equal",
    type=click.Choice(EQUAL),
    help="Set every arm's steps so that all spend the same steps, tokens or FLOPs as sft.",
)
@click.option("--jobs", type=click.IntRange(min=0), help="Worker processes; 0: this process.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "json", "csv"]),
    default="table",
    show_default=True,
    help="How the result is written to stdout.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; new or empty.")
@pass_app
@gathered("request", Request)
def compare(app: AppContext, models: ModelChoice, request: Request) -> int:
    """Compare strategies with each other, with baselines and with placebos.

    Every arm gets the same rows, seeds and steps. The untouched target and the source are
    always shown. Without models, the embedded pair is used.
    """
    from pktkit.chosen_analyses import choose_analyses
    from pktkit.compare.preview import announce
    from pktkit.report import render, wants_colour
    from pktkit.report.rundir import RunDirectory

    logs.configure(app.verbosity)
    named = request.analyses
    analyses = choose_analyses(app.registry, names(named)) if named is not None else []
    plan = _plan(app, models, request)
    directory = RunDirectory.create(request.out or _default_directory())
    if app.verbosity >= 0:
        click.echo(announce(plan), err=True)
    summary = _watched(app, plan, directory, analyses, jobs=request.jobs, cache=models.cache)
    click.echo(render(summary, request.form, styled=wants_colour(sys.stdout)), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_STRATEGY_FAILED if summary.any_failed else EXIT_OK


def _plan(app: AppContext, models: ModelChoice, request: Request) -> Plan:
    """Check everything that can be checked before a model is loaded."""
    from pktkit.compare.curve import curve_points, require_free
    from pktkit.compare.plan import Plan, choose_strategies, choose_task, parse_seeds
    from pktkit.components import Kind
    from pktkit.overrides import apply_all
    from pktkit.transfer import budget_for

    registry = app.registry
    wanted = names(models.task_name(request.tasks))
    tasks = list(registry.names(Kind.TASK)) if wanted == ["all"] else wanted
    chosen = choose_strategies(registry, names(request.strategies), controls=request.controls)
    if request.overrides:
        chosen = apply_all(chosen, request.overrides, registry)
    loaded = [choose_task(registry, name) for name in tasks]
    for task in loaded:
        registry.get(Kind.EVALUATOR, task.evaluator.name)
        for strategy in chosen:
            budget_for(task, strategy)
    require_free(
        request.overrides,
        rows=request.rows is not None,
        steps=request.curve is not None,
    )
    return Plan(
        pair=models.pair,
        strategies=tuple(chosen),
        tasks=tuple(tasks),
        seeds=parse_seeds(request.seeds),
        split=request.split,
        settings=models.settings,
        selection=app.selection,
        item_limit=request.limit,
        template=models.own_template,
        trace=app.trace_plugins,
        points=curve_points(request.rows, request.curve, loaded, chosen),
        equal=request.equal or "",
    )


def _watched(
    app: AppContext,
    plan: Plan,
    directory: RunDirectory,
    analyses: Sequence[Choice],
    *,
    jobs: int | None,
    cache: Path | None,
) -> Summary:
    """Run a plan under a progress display; say what remains of a run that is stopped."""
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.run import Watcher, run_comparison

    with CellDisplay(len(plan.cells()), quiet=app.verbosity < 0) as display:
        watcher = Watcher(display.step, display.finished, display.analysing)
        try:
            return run_comparison(
                plan,
                app.registry,
                directory,
                jobs=jobs,
                watcher=watcher,
                cache=cache,
                analyses=analyses,
            )
        except KeyboardInterrupt:
            click.echo(f"stopped  finished cells are in {directory.path}", err=True)
            raise


def _default_directory() -> Path:
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")

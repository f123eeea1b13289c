"""`pktkit compare`: strategies and controls on equal terms."""

from __future__ import annotations

import contextlib
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
from pktkit.settings import DEFAULT_ALPHA, DEFAULT_DRAWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pktkit.compare.parts import Part
    from pktkit.compare.plan import Plan
    from pktkit.compare.run import Watcher
    from pktkit.components import Choice
    from pktkit.processes import Processes
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
        references: each a comma list of rows to compare with; empty for the usual ones.
        alpha: error rate of claims.
        n_boot: bootstrap draws per difference.
        repeats: further runs of every strategy's first seed.
        rows: comma list of training rows, a point of a curve each; None for the budget's.
        curve: `steps`, or `steps=` with a comma list; None for the budget's.
        equal: what all arms spend alike; None leaves each the steps of its budget.
        allow_code_execution: whether programs that a model wrote may be run.
        jobs: worker processes; 0 for none, None chooses.
        cell: `i/n` for one part of the cells, None for all.
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
    references: tuple[str, ...]
    alpha: float
    n_boot: int
    repeats: int
    rows: str | None
    curve: str | None
    equal: str | None
    allow_code_execution: bool
    jobs: int | None
    cell: str | None
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
    help=f"Comma list of tasks, NAME[:PROTOCOL][@DATA], or files of rows; 'all': the built-in "
    f"ones. Default with the embedded pair: {DEFAULT_TASK}.",
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
@click.option(
    "--reference",
    "references",
    multiple=True,
    metavar="ROW",
    help="Compare with this row only, e.g. sft; the first is Δ's. Comma list, repeatable. "
    "Default: target, and every control.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=DEFAULT_ALPHA,
    show_default=True,
    help="Error rate of claims; intervals are at 1 - alpha.",
)
@click.option(
    "--n-boot",
    type=click.IntRange(100, 1_000_000),
    default=DEFAULT_DRAWS,
    show_default=True,
    help="Bootstrap draws per difference; the smallest p is 2 / (draws + 1).",
)
@click.option(
    "--repeat",
    "repeats",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Run every row's first seed N more times and report what changes.",
)
@click.option("--rows", help="Score against training rows: run at each, e.g. 16,64,256,1024.")
@click.option("--curve", help="Score against steps: 'steps' (1/4, 1/2, all) or steps=50,100,200.")
@click.option(
    "--equal",
    type=click.Choice(EQUAL),
    help="Set every arm's steps so that all spend the same steps, tokens or FLOPs as sft.",
)
@click.option(
    "--allow-code-execution",
    is_flag=True,
    help="Permit running programs that a model wrote, in a sandbox (tasks such as code).",
)
@click.option("--jobs", type=click.IntRange(min=0), help="Worker processes; 0: this process.")
@click.option("--cell", metavar="I/N", help="Run only the I-th of N parts of the comparison.")
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
    always shown. Without models, the embedded pair is used. Under `accelerate launch` all
    processes train each target together.
    """
    from pktkit.chosen_analyses import choose_analyses
    from pktkit.cli.together import together
    from pktkit.compare.parts import Part
    from pktkit.compare.preview import announce
    from pktkit.compare.run import take_part
    from pktkit.report import render, wants_colour
    from pktkit.report.rundir import RunDirectory

    logs.configure(app.verbosity)
    named = request.analyses
    analyses = choose_analyses(app.registry, names(named)) if named is not None else []
    plan = _plan(app, models, request)
    part = None if request.cell is None else Part.parse(request.cell, plan.cells())
    with together(models) as (processes, models):
        if not processes.main:
            take_part(plan, cache=models.cache, processes=processes)
            return EXIT_OK
        directory = RunDirectory.create(request.out or _default_directory())
        if app.verbosity >= 0:
            click.echo(announce(plan), err=True)
        if part is not None:
            return _run_part(app, plan, part, directory, request.jobs, models.cache, processes)
        summary = _run_all(app, plan, directory, analyses, request.jobs, models.cache, processes)
    click.echo(render(summary, request.form, styled=wants_colour(sys.stdout)), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_STRATEGY_FAILED if summary.any_failed else EXIT_OK


def _plan(app: AppContext, models: ModelChoice, request: Request) -> Plan:
    """Check everything that can be checked before a model is loaded."""
    from pktkit.compare.claims import require_claims_possible
    from pktkit.compare.curve import curve_points, require_free
    from pktkit.compare.plan import Plan, choose_strategies, choose_task, own_tasks, parse_seeds
    from pktkit.components import Kind
    from pktkit.overrides import apply_all
    from pktkit.permission import code_execution, require_permission
    from pktkit.settings import EvidenceSettings
    from pktkit.transfer import budget_for

    registry = app.registry
    wanted = names(models.task_name(request.tasks))
    tasks = own_tasks(registry) if wanted == ["all"] else wanted
    chosen = choose_strategies(registry, names(request.strategies), controls=request.controls)
    if request.overrides:
        chosen = apply_all(chosen, request.overrides, registry)
    loaded = [choose_task(registry, name) for name in tasks]
    for task in loaded:
        registry.get(Kind.EVALUATOR, task.evaluator.name)
        task.items(request.split)
        with code_execution(request.allow_code_execution):
            require_permission(registry, task)
        for strategy in chosen:
            budget_for(task, strategy)
            if strategy.injector is not None:
                task.items("train")
    evidence = EvidenceSettings(request.alpha, request.n_boot, names(",".join(request.references)))
    require_claims_possible(evidence, chosen)
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
        allow_code_execution=request.allow_code_execution,
        trace=app.trace_plugins,
        repeats=request.repeats,
        evidence=evidence,
        points=curve_points(request.rows, request.curve, loaded, chosen),
        equal=request.equal or "",
    )


def _run_all(
    app: AppContext,
    plan: Plan,
    directory: RunDirectory,
    analyses: Sequence[Choice],
    jobs: int | None,
    cache: Path | None,
    processes: Processes,
) -> Summary:
    from pktkit.compare.run import run_comparison

    with _watched(app, len(plan.cells()), directory) as watcher:
        return run_comparison(
            plan,
            app.registry,
            directory,
            jobs=jobs,
            watcher=watcher,
            cache=cache,
            analyses=analyses,
            processes=processes,
        )


def _run_part(
    app: AppContext,
    plan: Plan,
    part: Part,
    directory: RunDirectory,
    jobs: int | None,
    cache: Path | None,
    processes: Processes,
) -> int:
    """Run one part and say how to go on; without the others there is nothing to compare."""
    from pktkit.compare.run import run_part

    with _watched(app, len(part.cells), directory) as watcher:
        results = run_part(
            plan,
            part,
            directory,
            jobs=jobs,
            watcher=watcher,
            cache=cache,
            processes=processes,
        )
    failed = sum(result.failed for result in results)
    click.echo(
        f"part     {part}: {len(results)} of {len(plan.cells())} cells in {directory.path}, "
        f"{failed} failed\n"
        f"next     when all {part.of} parts have run: pktkit report RUN RUN …, their folders"
    )
    return EXIT_STRATEGY_FAILED if failed else EXIT_OK


@contextlib.contextmanager
def _watched(app: AppContext, cells: int, directory: RunDirectory) -> Iterator[Watcher]:
    """Show progress; say what remains of a run that is stopped."""
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.run import Watcher

    with CellDisplay(cells, quiet=app.verbosity < 0) as display:
        try:
            yield Watcher(display.step, display.finished, display.analysing)
        except KeyboardInterrupt:
            click.echo(f"stopped  finished cells are in {directory.path}", err=True)
            raise


def _default_directory() -> Path:
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")

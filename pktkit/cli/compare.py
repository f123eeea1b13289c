"""`pktkit compare`: strategies and controls on equal terms."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pktkit import logs
from pktkit.budget import EQUAL
from pktkit.cli.comparison import Request, planned
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import (
    CODE_EXECUTION,
    DEFAULT_TASK,
    ModelChoice,
    form_option,
    gathered,
    model_options,
    names,
)
from pktkit.cli.running import (
    as_begun,
    default_directory,
    refuse_beside_resume,
    run_part_watched,
    run_watched,
    where_begun,
)
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED
from pktkit.settings import DEFAULT_ALPHA, DEFAULT_DRAWS

if TYPE_CHECKING:
    from pktkit.compare.lock import Lock
    from pktkit.compare.resume import StoredRun
    from pktkit.distributed.processes import Processes
    from pktkit.report.rundir import RunDirectory


@click.command()
@click.option(
    "--strategies",
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
@CODE_EXECUTION
@click.option("--jobs", type=click.IntRange(min=0), help="Worker processes; 0: this process.")
@click.option("--cell", metavar="I/N", help="Run only the I-th of N parts of the comparison.")
@form_option("md", "json", "csv")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; new or empty.")
@click.option(
    "--resume",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Go on with the run in this directory; the plan is that of its run.lock.",
)
@pass_app
@gathered("request", Request)
def compare(app: AppContext, models: ModelChoice, request: Request) -> int:
    """Compare strategies with each other, with baselines and with placebos.

    Every arm gets the same rows, seeds and steps. The untouched target and the source are
    always shown. Without models, the embedded pair is used. Under `accelerate launch` all
    processes train each target together.
    """
    logs.configure(app.verbosity)
    if request.resume is not None:
        return _resumed(app, models, request, request.resume.absolute())
    return _started(app, models, request)


def _started(app: AppContext, models: ModelChoice, request: Request) -> int:
    """Run a new comparison, or a part of one."""
    from pktkit.chosen_analyses import choose_analyses
    from pktkit.cli.together import together
    from pktkit.compare.parts import Part
    from pktkit.compare.preview import announce
    from pktkit.compare.run import locked, take_part
    from pktkit.report.rundir import RunDirectory

    named = request.analyses
    analyses = choose_analyses(app.registry, names(named)) if named is not None else []
    plan = planned(app, models, request, warm=True)
    part = "" if request.cell is None else str(Part.parse(request.cell, plan.cells()))
    with together(plan.pair.devices, models.cache) as (processes, cache):
        if not processes.main:
            take_part(plan, cache=cache, processes=processes)
            return EXIT_OK
        lock = locked(plan, app.registry, jobs=request.jobs, analyses=analyses, part=part)
        directory = RunDirectory.create(request.out or default_directory())
        if app.verbosity >= 0:
            click.echo(announce(plan), err=True)
        return _run(app, lock, directory, request, cache=cache, processes=processes)


def _resumed(app: AppContext, models: ModelChoice, request: Request, path: Path) -> int:
    """Go on with a run that stopped."""
    from pktkit.cli.together import together
    from pktkit.compare.preview import announce
    from pktkit.compare.resume import stored_run
    from pktkit.compare.run import take_part

    refuse_beside_resume("run.lock")
    run = stored_run(path)
    kept = models.cache and models.cache.absolute()
    with (
        where_begun(app, run.lock) as app,
        together(run.lock.plan.pair.devices, kept) as (processes, cache),
    ):
        lock = as_begun(
            app,
            run.lock.pinned,
            allow_code_execution=request.allow_code_execution,
            trust_remote_code=models.placement.trust_remote_code,
            where=f"the run in {path}",
        )
        if not processes.main:
            take_part(lock.plan, cache=cache, processes=processes)
            return EXIT_OK
        for change in run.lock.environment_changes_now(app.registry):
            app.log.warning("not as when the run began", what=change)
        if app.verbosity >= 0:
            click.echo(announce(run.lock.plan), err=True)
            click.echo(f"resume   {_progress(run)}", err=True)
        return _run(
            app,
            lock,
            run.directory,
            request,
            cache=cache,
            cells=len(run.missing),
            processes=processes,
        )


def _run(
    app: AppContext,
    lock: Lock,
    directory: RunDirectory,
    request: Request,
    *,
    cache: Path | None,
    cells: int | None = None,
    processes: Processes,
) -> int:
    """Run what the directory lacks, write the result to stdout and return the exit code."""
    from pktkit.report import render, wants_colour

    run = run_part_watched if lock.part else run_watched
    done = run(
        app, lock, directory, jobs=request.jobs, cache=cache, cells=cells, processes=processes
    )
    if isinstance(done, int):
        return done
    click.echo(render(done, request.form, styled=wants_colour(sys.stdout)), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_STRATEGY_FAILED if done.any_failed else EXIT_OK


def _progress(run: StoredRun) -> str:
    total, missing = len(run.lock.cells), len(run.missing)
    if missing:
        return f"{total - missing} of {total} cells are there, {missing} to run"
    done = "finished already" if run.directory.finished else "only the report is missing"
    return f"all {total} cells are there, {done}; the report is written again"

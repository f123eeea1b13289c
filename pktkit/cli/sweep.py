"""`pktkit sweep`: settings of a strategy, chosen on dev and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from pktkit import logs
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import (
    CODE_EXECUTION,
    DEFAULT_TASK,
    ModelChoice,
    form_option,
    gathered,
    model_options,
)
from pktkit.cli.running import (
    as_begun,
    default_directory,
    refuse_beside_resume,
    watched,
    where_begun,
)
from pktkit.cli.search import DEFAULT_TRIALS, Request, planned
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED, UsageError
from pktkit.settings import DEFAULT_ALPHA

if TYPE_CHECKING:
    from pktkit.sweep.directory import SweepDirectory, SweepLock
    from pktkit.sweep.outcome import Outcome


@click.command()
@click.option("--strategy", help="The registered strategy or recipe file (.yaml) to vary.")
@click.option(
    "--task", help=f"Task or file of rows. Default with the embedded pair: {DEFAULT_TASK}."
)
@click.option(
    "--space",
    multiple=True,
    metavar="STAGE.OPTION=VALUES",
    help="What to vary: LOW..HIGH[:STEP], log:LOW..HIGH, int:LOW..HIGH[:STEP] or a list A,B,C, "
    "e.g. injector.layer_weight=log:0.5..20; or a YAML file of such pairs. Repeatable.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help=f"Configurations to try. Default: {DEFAULT_TRIALS}; with --sampler grid all.",
)
@click.option("--seeds", default="2", show_default=True, help="How many, or a list such as 0,7.")
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "random", "grid"]),
    default="tpe",
    show_default=True,
    help="How configurations are chosen: from earlier ones, at random, or all of them.",
)
@click.option(
    "--seed",
    "sampler_seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the sampler: the same again proposes the same.",
)
@model_options
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Fix an option for all configurations and for sft, e.g. budget.steps=100. Repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Score only the first N items of dev.")
@click.option(
    "--alpha",
    type=click.FloatRange(0.0, 1.0, min_open=True, max_open=True),
    default=DEFAULT_ALPHA,
    show_default=True,
    help="Error rate of the claim about the winner.",
)
@click.option(
    "--allow-unequal-budget",
    is_flag=True,
    help="Permit searching budget.rows, steps, batch_size, labels and unlabelled.",
)
@CODE_EXECUTION
@click.option(
    "--jobs", type=click.IntRange(min=0), help="Worker processes per trial; 0: this process."
)
@form_option("md", "json")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; new or empty.")
@click.option(
    "--resume",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Go on with the sweep in this folder; more --trials may be asked for.",
)
@pass_app
@gathered("request", Request)
def sweep(app: AppContext, models: ModelChoice, request: Request) -> int:
    """Choose a strategy's settings on the dev split, and say what the choice is worth.

    Every configuration runs over all seeds beside the strategy as registered and plain
    fine-tuning. The best one is written as a recipe, with its gain corrected for having been
    chosen. The test split is not there: confirm the recipe with `pktkit compare`.
    """
    from pktkit.distributed.processes import launched

    logs.configure(app.verbosity)
    if launched() > 1:
        raise UsageError("a sweep runs in one process; start it without accelerate launch.")
    if request.resume is not None:
        return _resumed(app, models, request, request.resume.absolute())
    return _started(app, models, request)


def _started(app: AppContext, models: ModelChoice, request: Request) -> int:
    """Run a new sweep."""
    from pktkit.compare.lock import Lock
    from pktkit.compare.preview import model_line
    from pktkit.compare.workers import default_threads
    from pktkit.sweep.directory import SweepDirectory, SweepLock
    from pktkit.sweep.run import suitable_jobs

    folder = request.out or default_directory()
    plan, search = planned(app, models, request, folder)
    threads = default_threads(request.jobs, max(1, suitable_jobs(plan)))
    lock = SweepLock(search, Lock.of(plan, app.registry, threads=threads))
    directory = SweepDirectory.create(folder)
    if app.verbosity >= 0:
        click.echo(
            f"source   {model_line(plan.pair.source)}\n"
            f"target   {model_line(plan.pair.target)}\n"
            f"sweep    {search.trials} trials of {search.strategy} × {len(plan.seeds)} seeds on "
            f"{plan.tasks[0]}, scored on {plan.split}; {search.sampler}, seed {search.seed}",
            err=True,
        )
    return _finished(app, lock, directory, request, cache=models.cache)


def _resumed(app: AppContext, models: ModelChoice, request: Request, path: Path) -> int:
    """Go on with a sweep that stopped, or with more trials."""
    from pktkit.sweep.directory import SweepDirectory

    refuse_beside_resume("sweep.lock", further=("--trials",))
    directory = SweepDirectory.existing(path)
    lock = directory.lock()
    kept = models.cache and models.cache.absolute()
    with where_begun(app, lock.run) as app:
        run = as_begun(
            app,
            lock.run.pinned,
            allow_code_execution=request.allow_code_execution,
            trust_remote_code=models.placement.trust_remote_code,
            where=f"the sweep in {path}",
        )
        search = attrs.evolve(lock.search, trials=request.trials or lock.search.trials)
        there = len(directory.trials())
        if app.verbosity >= 0:
            click.echo(f"resume   {there} of {search.trials + 1} trials are there", err=True)
        lock = attrs.evolve(lock, search=search, run=run)
        return _finished(app, lock, directory, request, cache=kept)


def _finished(
    app: AppContext,
    lock: SweepLock,
    directory: SweepDirectory,
    request: Request,
    *,
    cache: Path | None,
) -> int:
    """Run what is missing, write the outcome and show it."""
    from pktkit.sweep.directory import resume_command
    from pktkit.sweep.outcome import judge
    from pktkit.sweep.report import write_outcome
    from pktkit.sweep.run import run_sweep

    plan = lock.run.plan
    done = len({cell.key for cell in directory.run.cells() if not cell.failed})
    expected = len(plan.cells()) + lock.search.trials * len(plan.seeds) - done
    go_on = f"stopped  go on with: {resume_command(directory.path)}"
    with watched(app, expected, lambda: click.echo(go_on, err=True)) as watcher:
        trials, cells = run_sweep(
            lock, app.registry, directory, jobs=request.jobs, watcher=watcher, cache=cache
        )
    outcome = judge(lock, trials, cells)
    write_outcome(outcome, directory, app.registry)
    click.echo(_shown(outcome, request.form), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_OK if outcome.winner is not None else EXIT_STRATEGY_FAILED


def _shown(outcome: Outcome, form: str) -> str:
    from pktkit.sweep import report

    return {"table": report.text, "md": report.markdown, "json": report.as_json}[form](outcome)

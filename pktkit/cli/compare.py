"""`pktkit compare`: strategies and controls on equal terms."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pktkit import logs
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import chosen_pair, model_options, names
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED, UsageError

if TYPE_CHECKING:
    from pktkit.compare.plan import Plan
    from pktkit.registry import Registry

DEFAULT_TASK = "compose"


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
def compare(
    app: AppContext,
    strategies: str,
    tasks: str | None,
    seeds: str,
    source: str | None,
    target: str | None,
    dtype: str,
    device: str,
    max_length: int,
    cache: Path | None,
    state_dtype: str,
    overrides: tuple[str, ...],
    controls: bool,
    split: str,
    analyses: str | None,
    limit: int | None,
    jobs: int | None,
    form: str,
    out: Path | None,
) -> int:
    """Compare strategies with each other, with baselines and with placebos.

    Every arm gets the same rows, seeds and steps. The untouched target and the source are
    always shown. Without models, the embedded pair is used.
    """
    from pktkit.cli.analyze import choose_analyses
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.preview import announce
    from pktkit.compare.run import Watcher, run_comparison
    from pktkit.report import render, wants_colour
    from pktkit.report.rundir import RunDirectory

    logs.configure(app.verbosity)
    chosen = choose_analyses(app.registry, names(analyses)) if analyses is not None else []
    plan = _plan(
        app.registry,
        strategies=strategies,
        tasks=tasks,
        seeds=seeds,
        models=chosen_pair(source, target),
        dtype=dtype,
        device=device,
        max_length=max_length,
        state_dtype=state_dtype,
        overrides=overrides,
        controls=controls,
        split=split,
        limit=limit,
        app=app,
    )
    directory = RunDirectory.create(out or _default_directory())
    cells = plan.cells()
    if app.verbosity >= 0:
        click.echo(announce(plan), err=True)
    with CellDisplay(len(cells), quiet=app.verbosity < 0) as display:
        watcher = Watcher(display.step, display.finished, display.analysing)
        try:
            summary = run_comparison(
                plan,
                app.registry,
                directory,
                jobs=jobs,
                watcher=watcher,
                cache=cache,
                analyses=chosen,
            )
        except KeyboardInterrupt:
            click.echo(f"stopped  finished cells are in {directory.path}", err=True)
            raise
    click.echo(render(summary, form, styled=wants_colour(sys.stdout)), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_STRATEGY_FAILED if summary.any_failed else EXIT_OK


def _plan(
    registry: Registry,
    *,
    app: AppContext,
    strategies: str,
    tasks: str | None,
    seeds: str,
    models: tuple[str, str, bool],
    dtype: str,
    device: str,
    max_length: int,
    state_dtype: str,
    overrides: tuple[str, ...],
    controls: bool,
    split: str,
    limit: int | None,
) -> Plan:
    """Check everything that can be checked before a model is loaded."""
    from pktkit.compare.plan import PairSpec, Plan, choose_strategies, choose_task, parse_seeds
    from pktkit.components import Kind
    from pktkit.overrides import apply_all
    from pktkit.settings import ProbeSettings
    from pktkit.transfer import budget_for

    source, target, embedded = models
    if tasks is None and not embedded:
        raise UsageError("--task is needed with --source and --target, e.g. --task rows.jsonl.")
    wanted = names(tasks or DEFAULT_TASK)
    chosen_tasks = list(registry.names(Kind.TASK)) if wanted == ["all"] else wanted
    chosen = choose_strategies(registry, names(strategies), controls=controls)
    if overrides:
        chosen = apply_all(chosen, overrides, registry)
    for name in chosen_tasks:
        task = choose_task(registry, name)
        registry.get(Kind.EVALUATOR, task.evaluator.name)
        for strategy in chosen:
            budget_for(task, strategy)
    return Plan(
        pair=PairSpec(source, target, dtype, device),
        strategies=tuple(chosen),
        tasks=tuple(chosen_tasks),
        seeds=parse_seeds(seeds),
        split=split,
        settings=ProbeSettings(max_length=max_length, state_dtype=state_dtype),
        selection=app.selection,
        item_limit=limit,
        trace=app.trace_plugins,
    )


def _default_directory() -> Path:
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")

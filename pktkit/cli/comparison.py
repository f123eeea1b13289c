"""What the options of a comparison ask for, as a plan; nothing is loaded or run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from pktkit.cli.options import names

if TYPE_CHECKING:
    from pktkit.cli.context import AppContext
    from pktkit.cli.options import ModelChoice
    from pktkit.compare.plan import Plan
    from pktkit.components import Strategy
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task


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
        resume: run directory to go on with; None starts a new run.
    """

    strategies: str | None
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
    resume: Path | None


def planned(app: AppContext, models: ModelChoice, request: Request, *, warm: bool = False) -> Plan:
    """Check everything that can be checked before a model is loaded.

    Arguments:
        app: with the plugins.
        models: the pair.
        request: what to run.
        warm: whether cells will follow, so that workers may be prepared meanwhile.

    Raises:
        PktkitError: something in it cannot be.
    """
    from pktkit.compare.claims import require_claims_possible
    from pktkit.compare.curve import curve_points, require_free
    from pktkit.compare.plan import Plan, own_tasks, parse_seeds
    from pktkit.compare.workers import warm_up
    from pktkit.settings import EvidenceSettings

    if request.strategies is None:
        raise click.UsageError("Missing option '--strategies'.")
    registry = app.registry
    wanted = names(models.task_name(request.tasks))
    tasks = own_tasks(registry) if wanted == ["all"] else wanted
    arms = _arms(registry, names(request.strategies), request)
    if warm and request.jobs != 0 and "WORLD_SIZE" not in os.environ:
        warm_up()  # the slowest part of a start; it goes on while tasks are loaded
    loaded = [_runnable(registry, name, arms, request) for name in tasks]
    evidence = EvidenceSettings(request.alpha, request.n_boot, names(",".join(request.references)))
    require_claims_possible(evidence, arms)
    require_free(
        request.overrides,
        rows=request.rows is not None,
        steps=request.curve is not None,
    )
    return Plan(
        pair=models.pair,
        strategies=tuple(arms),
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
        points=curve_points(request.rows, request.curve, loaded, arms),
        equal=request.equal or "",
    )


def _arms(registry: Registry, named: Sequence[str], request: Request) -> list[Strategy]:
    """Return the strategies and what stands beside them, overrides applied."""
    from pktkit.compare.plan import choose_strategies
    from pktkit.overrides import apply_all

    arms = choose_strategies(registry, named, controls=request.controls)
    return apply_all(arms, request.overrides, registry)


def _runnable(registry: Registry, name: str, arms: Sequence[Strategy], request: Request) -> Task:
    """Load a task, and require what scoring it and learning from it need."""
    from pktkit.compare.plan import choose_task, require_runnable

    task, allowed = choose_task(registry, name), request.allow_code_execution
    require_runnable(registry, task, arms, split=request.split, allow_code_execution=allowed)
    return task

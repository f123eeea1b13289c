"""What the options of a sweep ask for, as a plan and a search; nothing is loaded or run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click
from click.core import ParameterSource

from pktkit.cli.options import names
from pktkit.errors import UsageError

if TYPE_CHECKING:
    from pktkit.cli.context import AppContext
    from pktkit.cli.options import ModelChoice
    from pktkit.compare.plan import Plan
    from pktkit.components import Strategy
    from pktkit.registry import Registry
    from pktkit.sweep.directory import Search
    from pktkit.sweep.space import Dimension

DEFAULT_TRIALS = 20

TO_CONFIRM = (
    "--source",
    "--target",
    "--set",
    "--template",
    "--max-length",
    "--dtype",
    "--source-dtype",
    "--source-quant",
    "--allow-code-execution",
    "--trust-remote-code",
)
"""Options that a comparison on test needs too."""


@attrs.frozen
class Request:
    """What the options of a sweep were given; its models are a `ModelChoice`.

    Arguments:
        strategy: a name or a recipe file.
        task: a name or a file of rows; None for the embedded pair's.
        space: each `STAGE.OPTION=VALUES` or a YAML file.
        trials: configurations besides the registered one; None for the usual number.
        seeds: a count, or a comma list.
        sampler: one of `pktkit.sweep.sampling.SAMPLERS`.
        sampler_seed: of the sampler.
        overrides: as of a comparison, for all arms.
        limit: items scored; None for all.
        alpha: error rate of claims.
        allow_unequal_budget: whether budget fields that make terms unequal may be searched.
        allow_code_execution: whether programs that a model wrote may be run.
        jobs: worker processes per trial; 0 for none, None chooses.
        form: how the result is written to stdout.
        out: folder; None for a new one under `runs`.
        resume: folder to go on with; None starts a new sweep.
    """

    strategy: str | None
    task: str | None
    space: tuple[str, ...]
    trials: int | None
    seeds: str
    sampler: str
    sampler_seed: int
    overrides: tuple[str, ...]
    limit: int | None
    alpha: float
    allow_unequal_budget: bool
    allow_code_execution: bool
    jobs: int | None
    form: str
    out: Path | None
    resume: Path | None


def planned(
    app: AppContext, models: ModelChoice, request: Request, folder: Path
) -> tuple[Plan, Search]:
    """Check everything that can be checked before a model is loaded.

    Arguments:
        app: with the plugins.
        models: the pair.
        request: what to search.
        folder: of the sweep.

    Returns:
        The comparison whose cells trials are, and how its configurations are chosen.

    Raises:
        PktkitError: something in it cannot be.
    """
    from pktkit.compare.plan import Plan, choose_task, parse_seeds, require_runnable, visible
    from pktkit.sweep.run import SPLIT
    from pktkit.sweep.space import parse_space

    named = names(request.strategy or "")
    if len(named) != 1:
        raise click.UsageError("Give one strategy with --strategy NAME, or a recipe file.")
    registry, task_name = app.registry, models.task_name(request.task)
    arms = _arms(registry, named, request)
    space = parse_space(request.space, arms[-1], registry)
    _require_free(request, [dimension.name for dimension in space])
    task = visible(choose_task(registry, task_name), SPLIT)
    require_runnable(
        registry,
        task,
        arms,
        split=SPLIT,
        allow_code_execution=request.allow_code_execution,
    )
    if not request.allow_unequal_budget:
        _require_equal(space)
    typed = _typed()
    confirm = _confirm(typed, named[0], task_name, folder)
    search = _search(request, arms[-1].name, space, typed, confirm)
    plan = Plan(
        pair=models.pair,
        strategies=tuple(arms),
        tasks=(task_name,),
        seeds=parse_seeds(request.seeds),
        split=SPLIT,
        settings=models.settings,
        selection=app.selection,
        item_limit=request.limit,
        template=models.own_template,
        allow_code_execution=request.allow_code_execution,
        trace=app.trace_plugins,
    )
    return plan, search


def _arms(registry: Registry, named: Sequence[str], request: Request) -> list[Strategy]:
    """Return what stands beside the strategy that is varied, and the strategy last."""
    from pktkit.compare.plan import choose_strategies
    from pktkit.overrides import apply_all
    from pktkit.sweep.run import beside, varied

    base = varied(choose_strategies(registry, named, controls=False)[0])
    arms = [*beside(base, registry), base]
    return apply_all(arms, request.overrides, registry)


def _search(
    request: Request,
    strategy: str,
    space: Sequence[Dimension],
    typed: list[tuple[str, ...]],
    confirm: str,
) -> Search:
    """Return how configurations are chosen and judged; a sampler that cannot be is refused."""
    from pktkit.sweep.directory import Search
    from pktkit.sweep.sampling import make_sampler, require_optuna
    from pktkit.sweep.space import size

    make_sampler(request.sampler, space, request.sampler_seed)
    grid = request.sampler == "grid"
    total = size(space) if grid else None
    return Search(
        strategy=strategy,
        space=tuple(space),
        sampler=request.sampler,
        seed=request.sampler_seed,
        trials=request.trials or total or DEFAULT_TRIALS,
        alpha=request.alpha,
        optuna="" if grid else require_optuna().__version__,
        command=shlex.join(["pktkit", "sweep", *(word for words in typed for word in words)]),
        confirm=confirm,
    )


def _require_free(request: Request, searched: list[str]) -> None:
    """Refuse what is both fixed and searched."""
    for text in request.overrides:
        name = text.partition("=")[0].rpartition(":")[2].strip()
        if name in searched:
            raise UsageError(f"{name} stands in --set and in --space; leave out one of them.")


def _require_equal(space: Sequence[Dimension]) -> None:
    """Refuse to search what makes configurations spend unlike amounts, unless asked to."""
    from pktkit.sweep.space import unequal

    if found := unequal(space):
        raise UsageError(
            f"--space {found[0]}: configurations would have unlike budgets, and the one that may "
            "spend most is likely to win. If that is what you want, add --allow-unequal-budget; "
            f"to fix it for all: --set {found[0]}=VALUE."
        )


def _typed() -> list[tuple[str, ...]]:
    """Return the options of this command as typed, one tuple of words each."""
    context = click.get_current_context()
    words: list[tuple[str, ...]] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params.get(name)
        if value is None or isinstance(value, bool):
            words += [(parameter.opts[0],)] if value else []
        else:
            many = value if isinstance(value, tuple) else (value,)
            words += [(parameter.opts[0], str(one)) for one in many]
    return words


def _confirm(typed: list[tuple[str, ...]], strategy: str, task: str, folder: Path) -> str:
    """Return the comparison on test that confirms the winner."""
    from pktkit.sweep.directory import RECIPE

    kept = [word for words in typed if words[0] in TO_CONFIRM for word in words]
    strategies = f"{strategy},{folder / RECIPE}"
    return shlex.join(["pktkit", "compare", "--strategies", strategies, "--task", task, *kept])

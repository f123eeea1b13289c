"""`pktkit transfer`: run one strategy and save the target that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, gathered, model_options
from pktkit.errors import UsageError
from pktkit.permission import FLAG

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.registry import Registry

FORMS = ("checkpoint", "adapter", "delta")


@attrs.frozen
class Request:
    """What the options of a transfer were given; its models are a `ModelChoice`.

    Arguments:
        strategy: a name or a recipe file.
        out: folder; new or empty.
        task_name: a name or a file of rows; None for the embedded pair's.
        seed: of the transfer.
        form: one of `FORMS`.
        rank: largest of an adapter; None for the least that loses nothing.
        max_shard_size: of a checkpoint's files, e.g. `5GB`.
        split: scored before and after; None for no scores.
        run: folder of a comparison whose scores go into the model card.
        allow_code_execution: whether scoring may run programs that a model wrote.
        overrides: each `STAGE.OPTION=VALUE`.
    """

    strategy: str
    out: Path
    task_name: str | None
    seed: int
    form: str
    rank: int | None
    max_shard_size: str | None
    split: str | None
    run: Path | None
    allow_code_execution: bool
    overrides: tuple[str, ...]


@click.command()
@click.option("--strategy", required=True, help="A registered strategy or a recipe file (.yaml).")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New or empty.")
@click.option(
    "--task", "task_name", help=f"Task or file of rows. Default, embedded: {DEFAULT_TASK}."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--save",
    "form",
    type=click.Choice(FORMS),
    default="checkpoint",
    show_default=True,
    help="What is written: the whole model, a PEFT adapter, or only what changed.",
)
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    help="Cut an adapter off at this rank. Default: the least rank that loses nothing.",
)
@click.option("--max-shard-size", help="Split a checkpoint's weights, e.g. 5GB.")
@click.option(
    "--score",
    "split",
    type=click.Choice(["dev", "test"]),
    help="Score the target on this split before and after, for the model card.",
)
@click.option(
    "--card-scores",
    "run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a comparison whose scores go into the model card.",
)
@click.option(
    FLAG,
    is_flag=True,
    help="Let --score run programs that a model wrote, in a sandbox.",
)
@model_options
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Change an option, e.g. aligner.map=unit or budget.steps=100. Repeatable.",
)
@pass_app
@gathered("request", Request)
def transfer(app: AppContext, models: ModelChoice, request: Request) -> None:
    """Transfer knowledge into the target and write it down, with a model card.

    A checkpoint loads with AutoModelForCausalLM, an adapter with peft on the target, a delta
    with `pktkit apply`. What is written is read back and compared; it appears complete or not at
    all. Under `accelerate launch` all processes train the one target.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.checkpoints.writing import checked_shard_size
    from pktkit.cli.together import together
    from pktkit.compare.plan import choose_task
    from pktkit.outputs import Saving, sentence
    from pktkit.outputs.scores import of_run
    from pktkit.outputs.transferring import transfer_and_save
    from pktkit.permission import code_execution, require_permission

    saving = Saving(request.form, request.rank, checked_shard_size(request.max_shard_size))
    log, registry = app.log, app.registry
    wanted = models.task_name(request.task_name)
    strategy = _chosen(registry, request)
    task = choose_task(registry, wanted)
    comparison = of_run(request.run, strategy.name, task.name) if request.run else ()
    with (
        code_execution(request.allow_code_execution),
        together(models.pair.devices, models.cache) as (processes, cache),
    ):
        if request.split is not None:
            require_permission(registry, task)
            task.items(request.split)
        processes.on_main(lambda: require_writable(request.out))
        probe = attrs.evolve(models, cache=cache).probe(task)
        record = transfer_and_save(
            strategy,
            probe,
            registry,
            seed=request.seed,
            out=request.out,
            processes=processes,
            saving=saving,
            split=request.split,
            comparison=comparison,
        )
    if processes.main:
        for note in probe.notes if app.verbosity >= 0 else ():
            click.echo(f"note     {note}", err=True)
        log.info("transferred", strategy=request.strategy, **record["summary"])
        click.echo(f"wrote    {request.out}  {sentence(record)}")


def _chosen(registry: Registry, request: Request) -> Strategy:
    """Return the strategy with its overrides.

    Raises:
        UsageError: there is none of that name, or it leaves the target as it is.
    """
    from pktkit.compare.plan import choose_strategies
    from pktkit.overrides import apply_all

    chosen = choose_strategies(registry, [request.strategy], controls=False)[:1]
    if request.overrides:
        chosen = apply_all(chosen, request.overrides, registry)
    if chosen[0].injector is None:
        raise UsageError(
            f"strategy '{request.strategy}' leaves the target as it is; nothing to write."
        )
    return chosen[0]

"""`pktkit transfer`: run one strategy and save the target that comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, model_options
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import UsageError
from pktkit.permission import FLAG

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.outputs import Saving
    from pktkit.probe import Probe
    from pktkit.registry import Registry

FORMS = ("checkpoint", "adapter", "delta")


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
def transfer(
    app: AppContext,
    strategy: str,
    out: Path,
    task_name: str | None,
    seed: int,
    form: str,
    rank: int | None,
    max_shard_size: str | None,
    split: str | None,
    run: Path | None,
    allow_code_execution: bool,
    models: ModelChoice,
    overrides: tuple[str, ...],
) -> None:
    """Transfer knowledge into the target and write it down, with a model card.

    A checkpoint loads with AutoModelForCausalLM, an adapter with peft on the target, a delta
    with `pktkit apply`. What is written is read back and compared; it appears complete or not at
    all. Under `accelerate launch` all processes train the one target.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.checkpoints.writing import checked_shard_size
    from pktkit.cli.together import together
    from pktkit.compare.plan import choose_strategies, choose_task
    from pktkit.outputs import Saving, sentence
    from pktkit.outputs.scores import of_run
    from pktkit.overrides import apply_all
    from pktkit.permission import code_execution, require_permission

    saving = Saving(form, rank, checked_shard_size(max_shard_size))
    log, registry = app.log, app.registry
    wanted = models.task_name(task_name)
    chosen = choose_strategies(registry, [strategy], controls=False)[:1]
    if overrides:
        chosen = apply_all(chosen, overrides, registry)
    if chosen[0].injector is None:
        raise UsageError(f"strategy '{strategy}' leaves the target as it is; nothing to write.")
    task = choose_task(registry, wanted)
    comparison = of_run(run, chosen[0].name, task.name) if run else ()
    with (
        code_execution(allow_code_execution),
        together(models.pair.devices, models.cache) as (processes, cache),
    ):
        if split is not None:
            require_permission(registry, task)
            task.items(split)
        models = attrs.evolve(models, cache=cache)
        processes.on_main(lambda: require_writable(out))
        probe = models.probe(task)
        record = _run(
            chosen[0],
            probe,
            registry,
            seed=seed,
            out=out,
            processes=processes,
            saving=saving,
            split=split,
            comparison=comparison,
        )
    if processes.main:
        for note in probe.notes if app.verbosity >= 0 else ():
            click.echo(f"note     {note}", err=True)
        log.info("transferred", strategy=strategy, **record["summary"])
        click.echo(f"wrote    {out}  {sentence(record)}")


def _run(
    strategy: Strategy,
    probe: Probe,
    registry: Registry,
    *,
    seed: int,
    out: Path,
    processes: Processes = ALONE,
    saving: Saving | None = None,
    split: str | None = None,
    comparison: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Transfer inside a journal, save and verify; the record lies beside the weights.

    Of several processes all transfer and one saves.

    Arguments:
        saving: in which form; None for a checkpoint.
        split: the target is scored on it before and after; None leaves that out.
        comparison: further scores for the model card.

    Returns:
        What was done, with `transfer.json` as it was written in the process that wrote it.
    """
    from pktkit.journal import Journal
    from pktkit.outcomes import CellKey
    from pktkit.outputs import Saving, save
    from pktkit.outputs.lineage import model_facts, software
    from pktkit.outputs.scores import before_and_after, score
    from pktkit.recipe import dump_recipe
    from pktkit.transfer import budget_for, run_transfer, transfer_data

    pair, task = probe.pair, probe.task
    budget = budget_for(task, strategy)
    recipe = dump_recipe(attrs.evolve(strategy, budget=attrs.asdict(budget)))
    facts = {"source": model_facts(pair.source), "target": model_facts(pair.target)}
    key = CellKey(strategy.name, task.name, seed)
    before = score(pair.target, task, split, registry, key, processes) if split else ()
    data = transfer_data(probe, budget, seed, processes=processes)
    with Journal(pair.target) as journal:
        done = run_transfer(strategy, pair, probe, data, journal, registry, task=task.name)
        changed = journal.changed()
    scores: dict[str, Any] = {"comparison": list(comparison)} if comparison else {}
    if split:
        after = score(pair.target, task, split, registry, key, processes)
        scores["own"] = before_and_after(task, split, before, after)
    injection = done.injection
    record = {
        "strategy": attrs.asdict(strategy, filter=lambda field, value: bool(value)),
        "recipe": recipe,
        "source": pair.source.name,
        "target": pair.target.name,
        "models": facts,
        "revisions": {"source": pair.source.revision, "target": pair.target.revision},
        "task": task.name,
        "seed": seed,
        "budget": attrs.asdict(budget),
        "processes": processes.count,
        "layer_map": "" if done.layer_map is None else str(done.layer_map),
        "alignment": {} if done.alignment is None else dict(done.alignment.diagnostics),
        "injection": {} if injection is None else attrs.asdict(injection),
        "changed_parameters": list(changed),
        "scores": scores,
        "software": software(),
        "summary": {
            "steps": injection.steps if injection else 0,
            "changed": f"{len(changed)} parameters",
        },
    }
    how = saving or Saving()
    written: dict[str, Any] = {}
    processes.on_main(lambda: written.update(save(pair.target, journal, out, how, record)))
    return written or record

"""`pktkit transfer`: run one strategy and save the target that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, model_options
from pktkit.errors import UsageError
from pktkit.processes import ALONE, Processes

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.probe import Probe
    from pktkit.registry import Registry

RECORD = "transfer.json"
"""Beside the model: what was done to it."""


@click.command()
@click.option("--strategy", required=True, help="A registered strategy or a recipe file (.yaml).")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New or empty.")
@click.option(
    "--task", "task_name", help=f"Task or file of rows. Default, embedded: {DEFAULT_TASK}."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
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
    models: ModelChoice,
    overrides: tuple[str, ...],
) -> None:
    """Transfer knowledge into the target and write it as a checkpoint.

    The directory loads with AutoModelForCausalLM and AutoTokenizer. It appears complete or
    not at all. Under `accelerate launch` all processes train the one target.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.cli.together import together
    from pktkit.compare.plan import choose_strategies, choose_task
    from pktkit.overrides import apply_all

    log, registry = app.log, app.registry
    wanted = models.task_name(task_name)
    chosen = choose_strategies(registry, [strategy], controls=False)[:1]
    if overrides:
        chosen = apply_all(chosen, overrides, registry)
    if chosen[0].injector is None:
        raise UsageError(f"strategy '{strategy}' leaves the target as it is; nothing to write.")
    task = choose_task(registry, wanted)
    with together(models) as (processes, models):
        processes.on_main(lambda: require_writable(out))
        probe = models.probe(task)
        record = _run(chosen[0], probe, registry, seed=seed, out=out, processes=processes)
    if processes.main:
        for note in probe.notes if app.verbosity >= 0 else ():
            click.echo(f"note     {note}", err=True)
        log.info("transferred", strategy=strategy, **record["summary"])
        click.echo(f"wrote    {out}")


def _run(
    strategy: Strategy,
    probe: Probe,
    registry: Registry,
    *,
    seed: int,
    out: Path,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Transfer inside a journal, save and verify; the record lies beside the weights.

    Of several processes all transfer and one saves.
    """
    from pktkit.journal import Journal
    from pktkit.pair import save_model
    from pktkit.transfer import budget_for, run_transfer, transfer_data

    pair, task = probe.pair, probe.task
    budget = budget_for(task, strategy)
    data = transfer_data(probe, budget, seed, processes=processes)
    with Journal(pair.target) as journal:
        done = run_transfer(strategy, pair, probe, data, journal, registry, task=task.name)
        changed = journal.changed()
    injection = done.injection
    record = {
        "strategy": attrs.asdict(strategy, filter=lambda field, value: bool(value)),
        "source": pair.source.name,
        "target": pair.target.name,
        "revisions": {"source": pair.source.revision, "target": pair.target.revision},
        "task": task.name,
        "seed": seed,
        "budget": attrs.asdict(budget),
        "processes": processes.count,
        "layer_map": "" if done.layer_map is None else str(done.layer_map),
        "alignment": {} if done.alignment is None else dict(done.alignment.diagnostics),
        "injection": {} if injection is None else attrs.asdict(injection),
        "changed_parameters": list(changed),
        "summary": {
            "steps": injection.steps if injection else 0,
            "changed": f"{len(changed)} parameters",
        },
    }
    extra = {RECORD: json.dumps(record, indent=2, default=str)}
    processes.on_main(lambda: save_model(pair.target, out, extra=extra))
    return record

"""`pktkit states`: read a large source once, and use what was read without its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, form_option, names, pair_options
from pktkit.cli.units import shown_size
from pktkit.errors import UsageError
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.cache.directory import Entry
    from pktkit.cli.options import Command
    from pktkit.states import StatesRecord


@click.group()
def states() -> None:
    """Write what a source says once; other runs then need no source weights.

    \b
    On the large machine:  pktkit states write --source BIG --target SMALL --task T --out DIR
    On the small machine:  pktkit compare --source DIR --target SMALL --task T --strategies latent
    """


def _splits_option(name: str, default: str, text: str) -> Callable[[Command], Command]:
    return click.option(name, default=default, show_default=True, help=text)


@states.command()
@click.option(
    "--task", "tasks", help=f"Comma list of tasks or files of rows. Default: {DEFAULT_TASK}."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New or empty.")
@_splits_option("--splits", "train,align", "Splits whose block states are written, or none.")
@_splits_option(
    "--logits", "train", "Splits whose logits are written, or none; kd and latent need train."
)
@_splits_option(
    "--attribution",
    "none",
    "Splits whose gradients are read; matchers by attribution need extract.",
)
@click.option(
    "--answers/--no-answers",
    default=True,
    show_default=True,
    help="The source's own answers to split train, and its states there; seqkd needs them.",
)
@_splits_option(
    "--scores",
    "test",
    "Splits the source is scored on, or none; its row in a comparison needs them.",
)
@click.option(
    "--layers",
    help="Comma list of blocks whose states are written, -1 for the input. Default: all.",
)
@pair_options
@pass_app
def write(
    app: AppContext,
    models: ModelChoice,
    tasks: str | None,
    out: Path,
    splits: str,
    logits: str,
    attribution: str,
    answers: bool,
    scores: str,
    layers: str | None,
) -> None:
    """Read the source and write its states, logits, answers and scores to a directory.

    Rows are cut with the tokenizer of --target, whose weights are not used. The directory
    appears whole or not at all, and takes the place of --source in compare and transfer.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.compare.plan import choose_task, templated
    from pktkit.states.writing import Wanted, write_states

    log, registry = app.log, app.registry
    chosen = [
        templated(choose_task(registry, name), models.own_template)
        for name in names(models.task_name(tasks))
    ]
    wanted = Wanted(
        states=_splits(splits),
        logits=_splits(logits),
        attribution=_splits(attribution),
        answers=answers,
        scores=_splits(scores),
        layers=None if layers is None else _blocks(layers),
    )
    for task in chosen:
        for split in (*wanted.states, *wanted.logits, *wanted.attribution, *wanted.scores):
            task.items(split)
    require_writable(out)
    write_states(
        models.pair.load(),
        chosen,
        out,
        wanted,
        registry,
        settings=models.settings,
        progress=lambda what: log.info("reading the source", what=what),
    )
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    click.echo(f"wrote    {out}  {shown_size(size)}")


@states.command()
@click.argument("directory", type=click.Path(path_type=Path))
@form_option("json")
def info(directory: Path, form: str) -> None:
    """Show whose states a directory holds, of what, and how large they are."""
    import attrs

    from pktkit.cache.directory import CacheDirectory
    from pktkit.states.record import READINGS, StatesRecord

    record = StatesRecord.read(directory)
    entries = CacheDirectory(directory / READINGS).entries()
    if form == "json":
        readings = [_as_json(entry) for entry in entries]
        click.echo(json.dumps({**attrs.asdict(record), "readings": readings}, indent=2))
        return
    click.echo(_heading(record))
    click.echo(table(["reading", "task", "split", "rows", "size"], [_row(e) for e in entries]))
    for task, found in record.scores.items():
        for split, given in found.items():
            mean = sum(row["score"] for row in given["items"]) / max(1, len(given["items"]))
            click.echo(f"score    {mean:.1%} on {len(given['items'])} items of {task}, {split}")


def _heading(record: StatesRecord) -> str:
    kept = record.dtype if record.state_dtype == "model" else record.state_dtype
    layers = "all" if len(record.layers) > record.blocks else ", ".join(map(str, record.layers))
    versions = ", ".join(f"{name} {version}" for name, version in record.packages.items())
    return "\n".join(
        (
            f"source   {record.source}  {record.blocks} blocks × {record.width}  {record.dtype}",
            f"from     {record.location}  weights {record.content['weights'][:12]}",
            f"rows     by the tokenizer of {record.target}, at most {record.max_length} tokens",
            f"states   {kept}, blocks {layers}",
            f"written  {record.written} on {record.device} by pktkit {record.pktkit}, {versions}",
        )
    )


def _row(entry: Entry) -> list[object]:
    if entry.manifest is None:
        return [f"unusable: {entry.reason}", "", "", "", shown_size(entry.bytes)]
    what, about = entry.manifest.address.what, entry.manifest.address.about
    kinds = [str(what["reading"])]
    if what["reading"] == "forward":
        kinds = ["states"] * bool(what["layers"]) + ["logits"] * bool(what["logits"])
    name = " and ".join(kinds)
    return [name, about["task"], about["split"], about["rows"], shown_size(entry.bytes)]


def _as_json(entry: Entry) -> dict[str, Any]:
    known = {} if entry.manifest is None else entry.manifest.to_json()
    return {"bytes": entry.bytes, "reason": entry.reason, **known}


def _splits(text: str) -> tuple[str, ...]:
    return () if text.strip().lower() == "none" else tuple(names(text))


def _blocks(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in names(text))
    except ValueError as error:
        raise UsageError(f"--layers must be a list such as 3,7,11, got '{text}'.") from error

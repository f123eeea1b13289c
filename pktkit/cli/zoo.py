"""`pktkit zoo`: the embedded pair of models, and how to make it again."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.errors import UsageError
from pktkit.tables import table


@click.group()
def zoo() -> None:
    """Show or rebuild the embedded pair of models."""


@zoo.command()
@click.option(
    "--out",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Directory for source/, target/ and provenance.json; must be empty or new.",
)
@pass_app
def build(app: AppContext, directory: pathlib.Path) -> None:
    """Train the pair from nothing. Takes some minutes on a CPU."""
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty; choose a new directory.")
    from pktkit.zoo.build import build as build_pair

    log = app.log
    directory.mkdir(parents=True, exist_ok=True)
    build_pair(directory, progress=lambda message: log.info("zoo", progress=message))
    click.echo(str(directory))


@zoo.command()
@click.option("--json", "as_json", is_flag=True, help="Write the whole record as JSON.")
def info(as_json: bool) -> None:
    """Print what the embedded models score, as recorded when they were trained."""
    from pktkit.zoo import pair_paths, provenance

    try:
        record = provenance()
    except (OSError, ValueError) as error:
        raise UsageError(f"the embedded pair has no readable record: {error}.") from error
    if as_json:
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for name, path in zip(("source", "target"), pair_paths(), strict=True):
        click.echo(f"{name}  {path}")
    click.echo(_score_table(record))


def _score_table(record: dict[str, Any]) -> str:
    """Return the recorded scores, one row per model and split, one column per task."""
    rows = [
        (model, split, scores)
        for model, details in record.get("models", {}).items()
        for split, scores in details.get("scores", {}).items()
    ]
    tasks = list(dict.fromkeys(task for *_, scores in rows for task in scores))
    return table(
        ["model", "split", *tasks],
        [
            [model, split, *(scores.get(task, "-") for task in tasks)]
            for model, split, scores in rows
        ],
    )

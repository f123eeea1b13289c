"""`pktkit inspect`: the pair doctor's first look at two models."""

from __future__ import annotations

import json
from typing import Any

import click

from pktkit.cli.options import Placement, placement_options
from pktkit.cli.tables import table


@click.command()
@click.argument("models", nargs=-1, metavar="[SOURCE TARGET]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How the result is written.",
)
@placement_options
def inspect(models: tuple[str, ...], form: str, placement: Placement) -> None:
    """Show what SOURCE and TARGET consist of; without arguments, the embedded pair.

    SOURCE and TARGET are directories, .gguf files, hub ids ORG/NAME[@REVISION], or BASE+ADAPTER.
    """
    if len(models) not in (0, 2):
        raise click.UsageError("give both SOURCE and TARGET, or neither for the embedded pair.")
    from pktkit.pair import describe

    source, target = models or (None, None)
    description = describe(placement.pair(source, target).load())
    if form == "json":
        click.echo(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        click.echo(_as_table(description))


def _as_table(description: dict[str, Any]) -> str:
    """Return both models side by side, and what else is known about the pair below."""
    source, target = description["source"], description["target"]
    facts = list(dict.fromkeys([*source, *target]))
    rows = [[fact, _cell(source.get(fact)), _cell(target.get(fact))] for fact in facts]
    others = [
        f"{key}  " + ", ".join(f"{name} {_cell(value)}" for name, value in facts.items())
        if isinstance(facts, dict)
        else f"{key}  {_cell(facts)}"
        for key, facts in description.items()
        if key not in ("source", "target")
    ]
    return "\n".join([table(["", "source", "target"], rows), *others])


def _cell(value: Any) -> str:
    """Write one fact for the table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)

"""`pktkit inspect`: the pair doctor; what two models are, and which strategies suit them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import Placement, form_option, names, placement_options
from pktkit.errors import EXIT_OK, EXIT_PAIR_INCOMPATIBLE
from pktkit.tables import table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.outlook.verdicts import Verdict

_SHORT = 88
"""Characters of a verdict in the table; the whole is below it."""


@click.command()
@click.argument("models", nargs=-1, metavar="[SOURCE TARGET]")
@click.option(
    "--strategies",
    help="Comma list of strategies or recipe files to judge. Default: all that are registered.",
)
@form_option("json")
@placement_options
@pass_app
def inspect(
    app: AppContext,
    models: tuple[str, ...],
    strategies: str | None,
    form: str,
    placement: Placement,
) -> int:
    """Show what SOURCE and TARGET consist of, and which strategies can use them.

    No weights are read. Without arguments, the embedded pair is shown. SOURCE and TARGET are
    directories, .gguf files, hub ids ORG/NAME[@REVISION], or BASE+ADAPTER. Ends with 3 if no
    strategy can use the pair.
    """
    if len(models) not in (0, 2):
        raise click.UsageError("give both SOURCE and TARGET, or neither for the embedded pair.")
    from pktkit.outlook.description import describe_outlines
    from pktkit.outlook.outlines import outline_pair
    from pktkit.outlook.verdicts import judge

    chosen = _methods(app, strategies)
    source, target = models or (None, None)
    pair = outline_pair(placement.pair(source, target))
    description = describe_outlines(pair)
    verdicts = [judge(strategy, pair.prospect, app.registry) for strategy in chosen]
    if form == "json":
        told = {**description, "strategies": [_as_json(verdict) for verdict in verdicts]}
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        click.echo(_as_text(description, verdicts))
    return EXIT_OK if any(v.usable for v in verdicts) else EXIT_PAIR_INCOMPATIBLE


def _methods(app: AppContext, text: str | None) -> list[Any]:
    """Return the strategies asked for; by default all that transfer something."""
    from pktkit.compare.plan import choose_strategies
    from pktkit.components import Kind

    registry = app.registry
    if text is None:
        found = map(registry.strategy, registry.names(Kind.STRATEGY))
        return [strategy for strategy in found if strategy.injector is not None]
    wanted = names(text)
    chosen = choose_strategies(registry, wanted, controls=False)
    return chosen[: len(wanted)]


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.strategy,
        "verdict": str(verdict.word),
        "needs": verdict.needs or None,
        "reasons": list(verdict.reasons),
    }


def _as_text(description: dict[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Return both models side by side, what they share, and the verdicts with their reasons."""
    source, target = description["source"], description["target"]
    facts = list(dict.fromkeys([*source, *target]))
    rows = [[fact, _cell(source.get(fact)), _cell(target.get(fact))] for fact in facts]
    shared = description["tokenizer"]
    lines = [
        table(["", "source", "target"], rows),
        "tokenizer  " + ", ".join(f"{name} {_cell(value)}" for name, value in shared.items()),
        *(f"note       {note}" for note in description["notes"]),
        "",
        table(["strategy", "verdict"], [[v.strategy, _short(str(v))] for v in verdicts]),
    ]
    said: dict[str, list[str]] = {}
    for verdict in verdicts:
        for reason in verdict.reasons if str(verdict) != str(verdict.word) else ():
            said.setdefault(reason, []).append(verdict.strategy)
    long = {reason: who for reason, who in said.items() if " " in reason.strip()}
    lines += ["", *(f"{', '.join(who)}: {reason}" for reason, who in long.items())] if long else []
    return "\n".join(lines)


def _short(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1].rstrip() + "…"


def _cell(value: Any) -> str:
    """Write one fact for the table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else str(value)

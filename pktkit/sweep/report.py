"""A sweep's outcome in words, as a table, and as a recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.recipe import dump_recipe
from pktkit.report.jsonfile import plain
from pktkit.report.numbers import ABSENT, p_value, points, signed
from pktkit.sweep.directory import RECIPE, REPORT, RESULT, SweepDirectory
from pktkit.sweep.outcome import document
from pktkit.sweep.run import configuration

if TYPE_CHECKING:
    from pktkit.registry import Registry
    from pktkit.sweep.directory import Trial
    from pktkit.sweep.outcome import Gain, Outcome

SUFFIX = "-swept"
"""Ends the name of the winner, which stands beside the strategy as registered."""


def write_outcome(outcome: Outcome, directory: SweepDirectory, registry: Registry) -> None:
    """Write `recipe.yaml`, `report.md` and, last, `sweep.json`.

    Raises:
        DoesNotFitError, UsageError: a file cannot be written.
    """
    if outcome.winner is not None:
        directory.run.write(RECIPE, recipe(outcome, registry))
    directory.run.write(REPORT, markdown(outcome))
    directory.run.write(RESULT, as_json(outcome))


def as_json(outcome: Outcome) -> str:
    """Return the content of `sweep.json`."""
    return json.dumps(plain(document(outcome)), indent=2, ensure_ascii=False) + "\n"


def recipe(outcome: Outcome, registry: Registry) -> str:
    """Return the winner as a recipe, every option written out, below what it is worth.

    Raises:
        UsageError: nothing has won, or an option cannot be written as YAML.
    """
    search, plan = outcome.lock.search, outcome.lock.run.plan
    assert outcome.winner is not None
    base = plan.strategy(search.strategy)
    chosen = configuration(outcome.winner, base, registry)
    chosen = attrs.evolve(
        chosen,
        name=f"{base.name}{SUFFIX}",
        reference="",
        summary=f"{base.name} with settings chosen on dev of {plan.tasks[0]}.",
    )
    heading = [
        *sentences(outcome),
        f"command: {search.command}",
        f"confirm on test: {search.confirm}",
    ]
    return "".join(f"# {line}\n" for line in _flat(heading)) + dump_recipe(chosen)


def sentences(outcome: Outcome) -> list[str]:
    """Return how many configurations were tried, and what the best of them is worth."""
    search, plan = outcome.lock.search, outcome.lock.run.plan
    tried, failed = len(outcome.configurations), len(outcome.failed)
    count = (
        f"tried {tried} configurations of {search.strategy} (1 as registered), "
        f"{failed} failed; {plan.split} of {plan.tasks[0]}, {outcome.items} items, "
        f"{len(plan.seeds)} seeds"
    )
    winner = outcome.winner
    if winner is None:
        return [count, "no configuration has a score"]
    values = ", ".join(f"{name}={value}" for name, value in winner.values.items())
    assert winner.score is not None
    best = f"best: trial {winner.number}, {points(winner.score)} % on {plan.split}: {values}"
    return [count, best, *(_worth(gain, outcome) for gain in outcome.gains), *outcome.notes]


def _worth(gain: Gain, outcome: Outcome) -> str:
    search = outcome.lock.search
    registered = gain.reference == search.strategy
    name = f"{gain.reference} as registered" if registered else gain.reference
    scored = [trial for trial in outcome.configurations if trial.score is not None]
    chosen = (
        "cannot be corrected with one item"
        if gain.corrected is None
        else f"{signed(gain.corrected)} corrected for being the best of {len(scored)}"
    )
    return (
        f"against {name} ({points(gain.score)} %): {signed(gain.naive)} points as scored, "
        f"{chosen}; p {p_value(gain.p)} (Holm), {_claim(gain, search.alpha)}"
    )


def _claim(gain: Gain, alpha: float) -> str:
    if gain.p >= alpha:
        return "not separable"
    return "higher" if gain.naive > 0 else "lower"


def text(outcome: Outcome) -> str:
    """Return the outcome for a terminal: a table of trials, and what it says."""
    from pktkit.tables import table

    lines = [table(headings(outcome), body(outcome), right=(1, 2)), "", *sentences(outcome)]
    if outcome.winner is not None:
        lines.append(f"confirm on test: {outcome.lock.search.confirm}")
    return "\n".join(lines) + "\n"


def markdown(outcome: Outcome) -> str:
    """Return the content of `report.md`."""
    search = outcome.lock.search
    lines = [f"# Sweep of {search.strategy}", "", *(f"- {line}" for line in sentences(outcome)), ""]
    lines += [f"Searched ({search.sampler}, seed {search.seed}):", ""]
    lines += [f"- `{dimension.name}`: {dimension}" for dimension in search.space]
    columns = headings(outcome)
    lines += ["", _row(columns), _row([":--", "--:", "--:", *[":--"] * (len(columns) - 3)])]
    lines += [_row(row) for row in body(outcome)]
    lines += ["", f"Command: `{search.command}`"]
    if outcome.winner is not None:
        lines += ["", f"Confirm on test: `{search.confirm}`"]
    return "\n".join(lines) + "\n"


def headings(outcome: Outcome) -> list[str]:
    """Return the columns of the table of trials."""
    names = [dimension.name for dimension in outcome.lock.search.space]
    first = outcome.gains[0].reference if outcome.gains else "reference"
    return ["trial", "dev %", f"Δ {first}", *names, ""]


def body(outcome: Outcome) -> list[list[str]]:
    """Return one row per trial, and below them those that stand beside."""
    names = [dimension.name for dimension in outcome.lock.search.space]
    base = outcome.gains[0].score if outcome.gains else None
    rows = []
    for trial in outcome.trials:
        values = [str(trial.values.get(name, "")) for name in names]
        score, gap = _figures(trial.score, base)
        rows.append([str(trial.number), score, gap, *values, _remark(trial, outcome)])
    for gain in outcome.gains:
        if gain.reference != outcome.lock.search.strategy:
            score, gap = _figures(gain.score, base)
            rows.append([gain.reference, score, gap, *[ABSENT] * len(names), "beside"])
    return rows


def _figures(score: float | None, base: float | None) -> tuple[str, str]:
    shown = ABSENT if score is None else points(score)
    return shown, ABSENT if score is None or base is None else signed(score - base)


def _remark(trial: Trial, outcome: Outcome) -> str:
    if trial.same_as is not None:
        return f"same as {trial.same_as}"
    if trial.error:
        return f"failed: {trial.error}"
    best = "best" if trial == outcome.winner else ""
    return ", ".join(filter(None, (best, "as registered" if trial.number == 0 else "")))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"


def _flat(lines: Sequence[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines]

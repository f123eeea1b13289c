"""The points of a comparison, from what `--rows` and `--curve` say; checked before anything runs.

`--rows 16,64` runs every arm on so many rows with the optimiser steps of its budget, so that a
point differs from the next in its data and in nothing else. `--curve steps=50,100` runs every arm
for so many steps, each a run with a schedule of its own. Both together are a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pktkit.errors import UsageError
from pktkit.points import OWN, point
from pktkit.transfer import budget_for

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.components import Strategy
    from pktkit.tasks.base import Task

SHARES = (4, 2, 1)
"""A curve over steps that names none is measured at a quarter, a half and the whole budget."""


def curve_points(
    rows: str | None, curve: str | None, tasks: Sequence[Task], strategies: Sequence[Strategy]
) -> tuple[str, ...]:
    """Return the points of a comparison, rows before steps, ascending.

    Arguments:
        rows: what `--rows` was given; None for the budget's.
        curve: what `--curve` was given: `steps`, or `steps=` with a comma list.
        tasks, strategies: what is compared.

    Raises:
        UsageError: a list is malformed, a task has fewer rows, a budget field is set twice, or
            the arms' own steps differ and none are named.
    """
    budgets = [
        (task, strategy, budget_for(task, strategy))
        for task in tasks
        for strategy in strategies
        if strategy.injector is not None
    ]
    if (rows is not None or curve is not None) and not budgets:
        raise UsageError("a learning curve needs a strategy that changes the target; none does.")
    counts = [] if rows is None else _numbers("--rows", rows)
    if counts:
        _require_rows(max(counts), budgets)
    steps = [] if curve is None else _steps(curve, [budget for _, _, budget in budgets])
    return tuple(
        point(**({"rows": row} if row else {}), **({"steps": step} if step else {}))
        for row in counts or [0]
        for step in steps or [0]
    ) or (OWN,)


def require_free(overrides: Sequence[str], *, rows: bool, steps: bool) -> None:
    """Refuse `--set budget.rows` or `budget.steps` beside an option that sets the same.

    Raises:
        UsageError: both are given.
    """
    for field, taken, name in (("rows", rows, "--rows"), ("steps", steps, "--curve")):
        for text in overrides:
            if taken and text.partition("=")[0].rpartition(":")[2].strip() == f"budget.{field}":
                raise UsageError(
                    f"--set {text} and {name} both set the {field} of an arm. Give one of them."
                )


def _steps(text: str, budgets: Sequence[Budget]) -> list[int]:
    axis, equals, listed = text.partition("=")
    if axis != "steps":
        raise UsageError(
            f"--curve '{text}': only steps can be varied here, as in --curve steps or "
            "--curve steps=50,100,200. For training rows there is --rows 16,64,256."
        )
    if equals:
        return _numbers("--curve steps", listed)
    own = sorted({budget.steps for budget in budgets})
    if len(own) > 1:
        raise UsageError(
            f"--curve steps: the arms' budgets have {', '.join(map(str, own))} steps. Name the "
            f"steps of the curve, e.g. --curve steps={own[0]},{own[-1]}."
        )
    return sorted({max(1, own[0] // share) for share in SHARES})


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option} takes whole numbers from 1, such as 16,64,256; got '{text}'.")
    found = [int(part) for part in parts]
    twice = sorted({number for number in found if found.count(number) > 1})
    if twice:
        raise UsageError(f"{option} names {', '.join(map(str, twice))} more than once: '{text}'.")
    return sorted(found)


def _require_rows(most: int, budgets: Sequence[tuple[Task, Strategy, Budget]]) -> None:
    for task, strategy, budget in budgets:
        available = len(task.items("train"))
        left = available - budget.unlabelled
        if most > left:
            beside = (
                f", of which '{strategy.name}' takes {budget.unlabelled} as unlabelled prompts"
                if budget.unlabelled
                else ""
            )
            raise UsageError(
                f"--rows {most}: split 'train' of task '{task.name}' has {available} rows{beside}. "
                f"Name at most {max(0, left)}."
            )

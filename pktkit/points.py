"""Points of a learning curve: a task's budget with its own number of rows or steps.

A point is text, so that it can stand in a cell's key, in a file and in a heading: `""` is the
task's own budget, `"rows=64"` or `"rows=64,steps=50"` change these fields for every arm alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pktkit.errors import UsageError

if TYPE_CHECKING:
    from pktkit.budget import Budget

OWN = ""
"""The task's own budget."""

FIELDS = ("rows", "steps")
"""What a point can change, in the order it is written."""


def point(**fields: int) -> str:
    """Write a point, e.g. `rows=64`; no fields are the task's own budget.

    Raises:
        UsageError: a field is no part of a point, or a number is below 1.
    """
    for name, number in fields.items():
        if name not in FIELDS or number < 1:
            raise UsageError(
                f"'{name}={number}' is no point of a curve: it takes {' or '.join(FIELDS)}, "
                "at least 1."
            )
    return ",".join(f"{name}={fields[name]}" for name in FIELDS if name in fields)


def point_fields(text: str) -> dict[str, int]:
    """Return the budget fields that a point changes.

    Raises:
        UsageError: the text is no point.
    """
    if text == OWN:
        return {}
    try:
        fields = {name: int(value) for name, value in (p.split("=") for p in text.split(","))}
    except ValueError as error:
        raise UsageError(f"'{text}' is no point of a curve, such as rows=64.") from error
    point(**fields)
    return fields


def budget_at(budget: Budget, text: str) -> Budget:
    """Return a budget at a point.

    Raises:
        UsageError: the text is no point.
    """
    changes: dict[str, Any] = point_fields(text)
    return attrs.evolve(budget, **changes)


def place(task: str, text: str) -> str:
    """Name a task at a point, as headings and results do."""
    return task if text == OWN else f"{task} at {text}"

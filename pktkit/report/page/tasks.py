"""The block of a task: table, differences, budget, layer maps and losses."""

from __future__ import annotations

from pktkit.report import budgets, columns, details
from pktkit.report.losses import Losses
from pktkit.report.page.document import Block
from pktkit.report.page.elements import folded, heading, note, table
from pktkit.report.page.forest import against_others, against_reference
from pktkit.report.page.layers import layer_maps
from pktkit.report.page.losses import loss_curves
from pktkit.report.records import Comparison


def task_block(comparison: Comparison, losses: Losses, *, closed: bool = False) -> Block:
    """Return everything about a task at a point of a curve.

    Arguments:
        closed: whether a reader has to open it.
    """
    parts = [
        _scores(comparison),
        against_reference(comparison),
        against_others(comparison),
        _contrasts(comparison),
        _repeats(comparison),
        _budget(comparison),
        layer_maps(comparison),
        loss_curves(comparison, losses),
    ]
    body = "\n".join(part for part in parts if part)
    return Block(columns.title(comparison), body, folded=closed, short=comparison.name)


def _scores(comparison: Comparison) -> str:
    drawn = table(
        columns.headings(comparison),
        columns.body(comparison),
        head=1,
        kinds=_kinds(comparison),
        label=columns.title(comparison),
    )
    return "\n".join([drawn, *map(note, columns.notes(comparison))])


def _contrasts(comparison: Comparison) -> str:
    body = details.body(comparison)
    if not body:
        return ""
    drawn = table(
        details.headings(comparison),
        body,
        words=1,
        label=f"contrasts on {comparison.name}",
    )
    return folded(f"All {len(body)} contrasts in figures", f"{drawn}\n{note(details.NOTE)}")


def _repeats(comparison: Comparison) -> str:
    body = details.repeats(comparison)
    if not body:
        return ""
    drawn = table(details.REPEATS_HEADINGS, body, label=f"repeated runs on {comparison.name}")
    return f"{heading('Repeated runs')}\n{drawn}\n{note(details.REPEATS_NOTE)}"


def _budget(comparison: Comparison) -> str:
    if budgets.reference_row(comparison) is None:
        return ""
    drawn = table(
        budgets.HEADINGS,
        budgets.body(comparison),
        kinds=_kinds(comparison),
        label=f"budgets on {comparison.name}",
    )
    return f"{heading('Budget')}\n{drawn}\n{note(budgets.NOTE)}"


def _kinds(comparison: Comparison) -> list[str]:
    return [str(row.role) for row in comparison.rows]

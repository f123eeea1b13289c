"""What each row spent, as a table, and in one line where rows did not spend alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pktkit.budget import REFERENCE
from pktkit.report import numbers
from pktkit.report.records import Comparison, Row

TOLERANCE = 0.05
"""Budgets within this share of the reference's count as alike."""

HEADINGS = (
    "strategy",
    "rows",
    "steps",
    "tokens",
    "trainable",
    "FLOPs",
    "of them source",
    "seconds",
    "peak memory",
)

NOTE = (
    "Means over seeds; of memory the largest. tokens: read by the target in training, without "
    "padding. FLOPs: of both models until the end of the injection, by formula (docs/budgets.md); "
    "a reading of the source counts once per arm, also where it came from a cache. seconds: wall "
    "time with evaluation. peak memory: of the process, or of the accelerator."
)

Figure = Callable[[Row], float | None]


def body(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the text of every row, in the order of `HEADINGS`."""
    return [
        (
            row.strategy,
            numbers.count(row.rows),
            numbers.count(row.steps),
            numbers.large(row.tokens),
            numbers.large(row.trainable_parameters),
            numbers.large(row.flops),
            numbers.large(row.source_flops),
            numbers.seconds(row.timing.total),
            numbers.size(row.timing.peak_bytes or None),
        )
        for row in comparison.rows
    ]


def reference_row(comparison: Comparison) -> Row | None:
    """Return the row that budgets are held against: `sft`, else the first that injected."""
    injected = [row for row in comparison.rows if row.steps is not None]
    named = (row for row in injected if row.strategy == REFERENCE)
    return next(named, injected[0] if injected else None)


def unlike(comparison: Comparison) -> str | None:
    """Say in one line which rows spent something else than the reference, and how much.

    None where all spent alike, or there is nothing to compare. Rows that took no step are named
    once instead of under every quantity.
    """
    reference = reference_row(comparison)
    if reference is None:
        return None
    others = [row for row in comparison.rows if row.steps is not None and row is not reference]
    training = [row for row in others if row.steps]
    found = {
        "rows": _differing(lambda row: row.rows, training, reference),
        "steps": _differing(lambda row: row.steps, training, reference),
        "tokens": _differing(lambda row: row.tokens, training, reference),
        "trainable parameters": _differing(
            lambda row: row.trainable_parameters, training, reference
        ),
        "FLOPs": _differing(lambda row: row.flops, others, reference, _of_source),
    }
    if found["steps"] == found["tokens"]:
        found = {"steps and tokens" if name == "steps" else name: t for name, t in found.items()}
        del found["tokens"]
    parts = [f"{name} {text}" for name, text in found.items() if text]
    if reference.steps:
        idle = [row.strategy for row in others if not row.steps]
        parts += [f"no step of training {'/'.join(idle)}"] if idle else []
    if not parts:
        return None
    return f"unlike budgets, against {reference.strategy}: {'; '.join(parts)}."


def _differing(
    figure: Figure,
    rows: Sequence[Row],
    reference: Row,
    remark: Callable[[Row, Row], str] = lambda row, reference: "",
) -> str:
    """Name rows whose figure is not the reference's, as in `a/b 1.5×, c 0.1×`."""
    base = figure(reference)
    ratios: dict[str, list[str]] = {}
    for row in rows:
        own = figure(row)
        if own is None or not base or abs(own / base - 1) <= TOLERANCE:
            continue
        text = f"{_ratio(own / base)}{remark(row, reference)}"
        ratios.setdefault(text, []).append(row.strategy)
    return ", ".join(f"{'/'.join(names)} {ratio}" for ratio, names in ratios.items())


def _of_source(row: Row, reference: Row) -> str:
    """Say how much of a row's operations was reading the source."""
    if not row.source_flops or not reference.flops or row.source_flops < 0.005 * reference.flops:
        return ""
    return f" (reading the source {_ratio(row.source_flops / reference.flops)})"


def _ratio(value: float) -> str:
    if value == 0:
        return "0×"
    return f"{value:.2g}×" if value < 10 else f"{value:.0f}×"

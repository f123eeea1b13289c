"""The columns that the terminal table and the Markdown table share."""

from __future__ import annotations

from collections.abc import Mapping

from pktkit.report import numbers
from pktkit.report.budgets import unlike
from pktkit.report.records import Comparison, Row

LEGEND = (
    "score: mean ± deviation over seeds. Δ in points, paired by item and seed. p: corrected over "
    "strategies; in brackets not corrected, for nothing is claimed of it. gap: share of the "
    "distance from target to source that is closed. lost, gained: items the target had right, or "
    "wrong, mean over seeds."
)


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the heading of every column."""
    return (
        "#",
        "strategy",
        "score %",
        f"Δ vs {comparison.reference or 'target'} [{comparison.level:g} %]",
        "p (Holm)",
        f"gap % [{comparison.level:g} %]",
        "lost",
        "gained",
        "tokens",
        "trainable",
        "seconds",
    )


def body(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the text of every row, in the order of `headings`."""
    numbered = _note_numbers(comparison)
    return [
        (str(position), f"{row.strategy}{_mark(numbered, row)}", *_figures(row))
        for position, row in enumerate(comparison.rows, start=1)
    ]


def notes(comparison: Comparison) -> list[str]:
    """Return numbered reasons of failed seeds, what was unlike, then how to read the columns."""
    texts = [f"[{number}] {text}" for text, number in _note_numbers(comparison).items()]
    difference = unlike(comparison)
    return [*texts, *([difference] if difference else []), LEGEND, *_repeated(comparison)]


def title(comparison: Comparison) -> str:
    """Return one line that names the task, its size and the number of seeds."""
    seeds = max((row.n_seeds for row in comparison.rows), default=0)
    plural = "" if seeds == 1 else "s"
    return f"{comparison.name} · {comparison.items} items · {seeds} seed{plural}"


def _repeated(comparison: Comparison) -> list[str]:
    """Say how many items changed where a seed was run again."""
    found = [(row.strategy, row.repeats) for row in comparison.rows if row.repeats is not None]
    if not found:
        return []
    moved = ", ".join(
        f"{name} {noise.differing}"
        + (f" (mean ± {numbers.points(noise.mean_deviation)})" if noise.differing else "")
        for name, noise in found
    )
    runs = found[0][1].runs
    return [
        f"noise: items of {comparison.items} that differ between {runs} runs of a seed: {moved}."
    ]


def _figures(row: Row) -> tuple[str, ...]:
    contrast = row.against
    score = "failed" if row.failed is not None else numbers.percent(row.mean, row.deviation)
    return (
        score,
        numbers.delta(contrast.points, contrast.interval) if contrast else numbers.ABSENT,
        _p(row),
        numbers.gap(row.gap),
        numbers.count(row.lost),
        numbers.count(row.gained),
        numbers.large(row.tokens),
        numbers.large(row.trainable_parameters),
        numbers.seconds(row.timing.total),
    )


def _p(row: Row) -> str:
    """Write the corrected p of what is claimed; in brackets that of which nothing is."""
    if row.against is None:
        return numbers.ABSENT
    if row.against.adjusted_p is None:
        return f"({numbers.p_value(row.against.p)})"
    return numbers.p_value(row.against.adjusted_p)


def _failure_text(row: Row, reason: str) -> str:
    seeds = [f.seed for f in row.failures if f.reason == reason and f.seed is not None]
    which = f" seed {', '.join(map(str, seeds))}" if seeds else ""
    return f"{row.strategy}{which}: {reason}"


def _note_numbers(comparison: Comparison) -> Mapping[str, int]:
    texts = [_failure_text(row, f.reason) for row in comparison.rows for f in row.failures]
    return {text: number for number, text in enumerate(dict.fromkeys(texts), start=1)}


def _mark(numbered: Mapping[str, int], row: Row) -> str:
    own = dict.fromkeys(numbered[_failure_text(row, failure.reason)] for failure in row.failures)
    return f" [{','.join(map(str, own))}]" if own else ""

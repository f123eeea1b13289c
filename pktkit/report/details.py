"""What stands behind the table: every contrast, where its variance comes from, repeated runs."""

from __future__ import annotations

from collections.abc import Iterator

from pktkit.report import numbers
from pktkit.report.records import Comparison, Contrast

NOTE = (
    "p (Holm) is what claims rest on. p exact: second opinion over items alone, with these seeds "
    "(McNemar with one seed, else sign-flip of whole items), not corrected, and blind to other "
    "seeds. detectable: smallest difference this sample shows with 80 % power. error: "
    "standard error of Δ, what more seeds would shrink and what more items would. σ: deviation "
    "between seeds, between items, and of one seed on one item. All in points."
)
REPEATS_NOTE = (
    "Further runs of one seed, which should be the same. σ item: root mean square deviation of an "
    "item between runs; σ mean: deviation of the mean, both in points."
)
REPEATS_HEADINGS = ("strategy", "runs", "items that differ", "σ item", "σ mean")


def headings(comparison: Comparison) -> tuple[str, ...]:
    """Return the heading of every column of `body`."""
    return (
        "strategy",
        "against",
        f"Δ [{comparison.level:g} %]",
        "p",
        "p (Holm)",
        "p exact",
        "detectable",
        "seeds",
        "error: seeds",
        "error: items",
        "σ seeds",
        "σ items",
        "σ noise",
    )


def body(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a line per contrast: first what is claimed of, then what is shown beside."""
    return [_line(contrast) for contrast in _contrasts(comparison)]


def repeats(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return a line per row whose seed was run again, in the order of `REPEATS_HEADINGS`."""
    return [
        (
            row.strategy,
            str(noise.runs),
            f"{noise.differing} of {noise.items}",
            numbers.points(noise.item_deviation),
            numbers.points(noise.mean_deviation),
        )
        for row in comparison.rows
        if (noise := row.repeats) is not None
    ]


def _contrasts(comparison: Comparison) -> Iterator[Contrast]:
    yield from comparison.contrasts
    claimed = {(c.strategy, c.reference) for c in comparison.contrasts}
    beside = [c for row in comparison.rows for c in (row.against, row.against_target) if c]
    for contrast in {(c.strategy, c.reference): c for c in beside}.values():
        if (contrast.strategy, contrast.reference) not in claimed:
            yield contrast


def _line(contrast: Contrast) -> tuple[str, ...]:
    adjusted, exact, parts = contrast.adjusted_p, contrast.exact, contrast.variance
    spread = (
        [parts.seed_error, parts.item_error, parts.seed, parts.item, parts.noise]
        if parts
        else [None] * 5
    )
    return (
        contrast.strategy,
        contrast.reference,
        numbers.delta(contrast.points, contrast.interval),
        numbers.p_value(contrast.p),
        numbers.ABSENT if adjusted is None else numbers.p_value(adjusted),
        numbers.ABSENT if exact is None else numbers.p_value(exact.p),
        numbers.points(contrast.detectable),
        str(contrast.seeds),
        *(numbers.ABSENT if part is None else numbers.points(part) for part in spread),
    )

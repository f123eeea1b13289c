"""What may be claimed: at a glance, then in words."""

from __future__ import annotations

from collections.abc import Sequence

from pktkit.report import numbers
from pktkit.report.page.document import Block
from pktkit.report.page.elements import Cell, escape, heading, note, table
from pktkit.report.records import Claim, Comparison, Contrast
from pktkit.report.verdict import name_of, verdict_sentences

_WORDS = {Claim.BEATS: "beats", Claim.NOT_SEPARABLE: "open", Claim.WORSE: "worse"}
_KINDS = {Claim.BEATS: "better", Claim.NOT_SEPARABLE: "open", Claim.WORSE: "worse"}
READING = (
    "Tables: rows against columns, difference in points. beats, worse: shown, p after Holm below "
    "{alpha:g} and the interval excludes 0. open: not separable with this sample."
)


def verdict_block(comparisons: Sequence[Comparison]) -> Block:
    """Return the verdicts of tasks, under a heading each where there are several."""
    parts = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(heading(comparison.name))
        parts += [_glance(comparison), _sentences(comparison)]
    alphas = {comparison.alpha for comparison in comparisons if comparison.contrasts}
    parts += [note(READING.format(alpha=alpha)) for alpha in alphas]
    return Block("Verdict", "\n".join(part for part in parts if part))


def _sentences(comparison: Comparison) -> str:
    """Return the verdict as a list; a strategy that an entry starts with stands out."""
    names = sorted((row.strategy for row in comparison.rows), key=len, reverse=True)
    lines = []
    for sentence in verdict_sentences(comparison):
        name = next((each for each in names if sentence.startswith(f"{each} ")), "")
        first = f"<strong>{escape(name)}</strong>" if name else ""
        lines.append(f"<li>{first}{escape(sentence[len(name) :])}</li>")
    return f"<ul>\n{chr(10).join(lines)}\n</ul>"


def _glance(comparison: Comparison) -> str:
    """Return a table of claims: strategies down, references across."""
    if not comparison.contrasts:
        return ""
    references = list(dict.fromkeys(contrast.reference for contrast in comparison.contrasts))
    strategies = list(dict.fromkeys(contrast.strategy for contrast in comparison.contrasts))
    found = {(c.strategy, c.reference): c for c in comparison.contrasts}
    rows: list[list[str | Cell]] = [
        [strategy, *(_claim(found.get((strategy, reference))) for reference in references)]
        for strategy in strategies
    ]
    names = [name_of(comparison, reference, short=True) for reference in references]
    return table(
        ["strategy", *names],
        rows,
        words=len(references),
        label=f"claims on {comparison.name}",
    )


def _claim(contrast: Contrast | None) -> Cell:
    if contrast is None:
        return Cell(numbers.ABSENT)
    text = f"{_WORDS[contrast.claim]} {numbers.signed(contrast.points)}"
    return Cell(text, f"claim {_KINDS[contrast.claim]}")

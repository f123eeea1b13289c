"""The verdict in words. Every claim is a `Contrast.claim`; everything else is "not separable"."""

from __future__ import annotations

from collections.abc import Sequence

from pktkit.report.numbers import p_value, percent, points, signed
from pktkit.report.records import Claim, Comparison, Contrast, Role, Row

FEWEST_SEEDS = 3
ONLY_CONTROLS = "Only controls were compared; --strategies names what to compare with them."


def verdict(comparison: Comparison) -> str:
    """Return the verdict of a task as one paragraph."""
    return " ".join(verdict_sentences(comparison))


def verdict_sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return one entry per method, then what limits all of them.

    "beats" and "worse than" appear only where the corrected p-value is below alpha and the interval
    excludes 0. An interval that excludes 0 while the corrected p-value does not is shown with it.
    """
    methods = comparison.of_role(Role.METHOD)
    controls = not methods
    if controls:
        compared = {contrast.strategy for contrast in comparison.contrasts}
        methods = tuple(row for row in comparison.rows if row.strategy in compared)
    if not methods:
        return (_untouched(comparison), *_failed_references(comparison))
    return (
        *([ONLY_CONTROLS] if controls else []),
        *(_method(comparison, row) for row in methods),
        *_failed_references(comparison),
        *_no_improvement(comparison),
        *_few_seeds(comparison),
    )


def _untouched(comparison: Comparison) -> str:
    """Say what can be said where nothing was transferred: how much there is to gain."""
    apart = [
        row.against_target
        for row in comparison.of_role(Role.SOURCE)
        if row.against_target is not None
    ]
    if not apart:
        return "Nothing was compared: no row was transferred and scored."
    figures = _figures(apart[0], f"{comparison.level:g} % interval ")
    return (
        "No row was transferred and scored; between the untouched target and the source are "
        f"{figures.strip('()')}."
    )


def _method(comparison: Comparison, row: Row) -> str:
    if row.failed is not None:
        return f"{row.strategy} failed: {_sentence(row.failed)}"
    contrasts = comparison.contrasts_of(row.strategy)
    if not contrasts:
        mean = percent(row.mean, row.deviation)
        return f"{row.strategy} scores {mean} %; there is no row to compare it with."
    text = [_claims(comparison, row.strategy, contrasts)]
    text += _profits(comparison, row.strategy, contrasts)
    text += _detectable(comparison, contrasts)
    return " ".join(text)


def _claims(comparison: Comparison, strategy: str, contrasts: Sequence[Contrast]) -> str:
    """Say which rows the strategy beats, cannot be told from, and is worse than."""
    clauses = []
    level = f"{comparison.level:g} % interval "
    for claim in Claim:
        of_claim = [contrast for contrast in contrasts if contrast.claim is claim]
        if not of_claim:
            continue
        named = []
        for contrast in of_claim:
            named.append(f"{name_of(comparison, contrast.reference)} {_figures(contrast, level)}")
            level = ""
        verb = claim.value if claim is Claim.BEATS else f"is {claim.value}"
        clauses.append(f"{verb} {_listed(named)}")
    return f"{strategy} " + "; it ".join(clauses) + "."


def _figures(contrast: Contrast, level: str) -> str:
    """Write difference and interval; `level` is what to call the interval, the first time."""
    low, high = contrast.interval.low, contrast.interval.high
    unit = " points" if level else ""
    if contrast.claim is Claim.NOT_SEPARABLE:
        text = f"{signed(contrast.points)}{unit}, {level}{points(low)} to {points(high)}"
        if 0.0 not in contrast.interval and contrast.adjusted_p is not None:
            text += f", but p {p_value(contrast.adjusted_p)} after Holm"
        return f"({text})"
    if contrast.claim is Claim.WORSE:
        low, high = -high, -low
    return f"by {points(abs(contrast.points))}{unit} ({level}{points(low)} to {points(high)})"


def _profits(comparison: Comparison, strategy: str, contrasts: Sequence[Contrast]) -> list[str]:
    """Say what beating, or not beating, the method's own placebos is evidence of."""
    shown: list[str] = []
    not_shown: list[str] = []
    for contrast in contrasts:
        fragment = comparison.meaning.get(contrast.reference)
        owners = comparison.placebo_of.get(contrast.reference)
        if not fragment or (owners is not None and strategy not in owners):
            continue
        (shown if contrast.claim is Claim.BEATS else not_shown).append(f"from {fragment}")
    if shown and not_shown:
        return [
            f"This is evidence that it profits {_listed(shown)}; "
            f"there is none that it profits {_listed(not_shown, 'or')}."
        ]
    if shown:
        return [f"This is evidence that it profits {_listed(shown)}."]
    if not_shown:
        return [f"There is no evidence that it profits {_listed(not_shown, 'or')}."]
    return []


def _detectable(comparison: Comparison, contrasts: Sequence[Contrast]) -> list[str]:
    """Say what could have been found, where the main reference could not be told apart."""
    return [
        f"The smallest {_effect(comparison, contrast)} that this sample could have shown is about "
        f"{points(contrast.detectable)} points (with 80 % power)."
        for contrast in contrasts
        if contrast.reference == comparison.reference and contrast.claim is Claim.NOT_SEPARABLE
    ]


def _effect(comparison: Comparison, contrast: Contrast) -> str:
    if comparison.row(contrast.reference).role is Role.TARGET:
        return "effect on the target"
    return f"difference to {name_of(comparison, contrast.reference)}"


def _failed_references(comparison: Comparison) -> list[str]:
    return [
        f"Nothing can be said against {name_of(comparison, row.strategy)}, which failed: "
        f"{_sentence(row.failed)}"
        for row in comparison.rows
        if row.control and row.failed is not None
    ]


def _no_improvement(comparison: Comparison) -> list[str]:
    """Say so if no method has been shown to be better than the target."""
    against_target = [
        contrast
        for contrast in comparison.contrasts
        if comparison.row(contrast.reference).role is Role.TARGET
    ]
    if not against_target or any(c.claim is Claim.BEATS for c in against_target):
        return []
    if len(against_target) == 1:
        return [f"No evidence that {against_target[0].strategy} improves the target."]
    return ["No evidence that any of these strategies improves the target."]


def _few_seeds(comparison: Comparison) -> list[str]:
    fewest = min((contrast.seeds for contrast in comparison.contrasts), default=FEWEST_SEEDS)
    if fewest >= FEWEST_SEEDS:
        return []
    if fewest == 1:
        return [
            "Where there is only 1 seed, the interval covers the choice of items and not the luck "
            f"of the seed: run at least {FEWEST_SEEDS} seeds before relying on it."
        ]
    return [
        f"{fewest} seeds say little about the luck of a seed: run at least {FEWEST_SEEDS} before "
        "relying on the intervals."
    ]


def name_of(comparison: Comparison, strategy: str, *, short: bool = False) -> str:
    """Name a row as a sentence does; `short` leaves out that the target is untouched."""
    role = comparison.row(strategy).role
    if role is Role.TARGET:
        return "the target" if short else "the untouched target"
    return "the source" if role is Role.SOURCE else strategy


def _listed(parts: Sequence[str], last: str = "and") -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _sentence(reason: str) -> str:
    return reason if reason.endswith((".", "!", "?")) else f"{reason}."

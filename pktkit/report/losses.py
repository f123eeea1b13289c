"""Loss curves of the rows: mean over seeds, by tenth of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pktkit.outcomes import CellResult

Losses = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]
"""By task (at its point) and strategy: loss terms over the run's tenths, mean over seeds."""


def mean_losses(cells: Iterable[CellResult]) -> Losses:
    """Return the loss curves of every task and strategy that trained.

    Runs that stopped early, or have a value missing, are compared as far as all seeds go.
    """
    found: dict[tuple[str, str], dict[str, list[Sequence[float]]]] = {}
    for cell in cells:
        if cell.injection is not None and not cell.key.repeat:
            terms = found.setdefault((cell.key.place, cell.key.strategy), {})
            for term, values in cell.injection.losses.items():
                terms.setdefault(term, []).append([_number(value) for value in values])
    return {
        key: {
            term: [sum(tenth) / len(tenth) for tenth in zip(*runs, strict=False)]
            for term, runs in terms.items()
        }
        for key, terms in found.items()
    }


def _number(value: float | None) -> float:
    """Return a loss as it was; what could not be written as JSON came back as None."""
    return float("nan") if value is None else float(value)

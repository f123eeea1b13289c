"""What a sweep found: the winner, what it gained on dev, and what of that is the choice's doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from pktkit.budget import REFERENCE
from pktkit.settings import DEFAULT_DRAWS
from pktkit.statistics import FloatArray, draws_needed, holm, paired_p_value
from pktkit.statistics.selection import corrected_gain
from pktkit.sweep.space import unequal

if TYPE_CHECKING:
    from pktkit.outcomes import CellKey, CellResult
    from pktkit.sweep.directory import SweepLock, Trial


@attrs.frozen
class Gain:
    """What the winner has over one row, in points on dev.

    Arguments:
        reference: name of the row.
        score: of the row, percent.
        naive: the winner's mean minus the row's, as if it had not been chosen.
        corrected: expected of choosing the best of so many, see `statistics.selection`; None
            where there are too few items to say.
        p: of the winner against the row, corrected with Holm over all configurations.
    """

    reference: str
    score: float
    naive: float
    corrected: float | None
    p: float


@attrs.frozen
class Outcome:
    """What a sweep found.

    Arguments:
        lock: what it was made of.
        trials: all of them, in order.
        winner: the trial with the highest score, of equal ones the first; None if all failed.
        gains: over the strategy as registered, then over plain fine-tuning, then over the
            untouched target, as far as they have scores.
        items: how many were scored.
    """

    lock: SweepLock
    trials: tuple[Trial, ...]
    winner: Trial | None = None
    gains: tuple[Gain, ...] = ()
    items: int = 0

    @property
    def configurations(self) -> list[Trial]:
        """The different configurations that were tried, as registered included."""
        return [trial for trial in self.trials if trial.same_as is None]

    @property
    def failed(self) -> list[Trial]:
        """The configurations that have no score."""
        return [trial for trial in self.configurations if trial.score is None]

    @property
    def notes(self) -> list[str]:
        """Sentences that a reader of the gains should know."""
        search, plan = self.lock.search, self.lock.run.plan
        notes = []
        if self.winner is not None and self.winner.number == 0:
            notes.append("no configuration scored higher than the strategy as registered")
        if len(plan.seeds) == 1:
            notes.append("one seed: the correction is for luck with items, not with the seed")
        if search.sampler == "tpe":
            notes.append(
                "tpe proposes configurations after looking at dev, which no correction from dev "
                "sees in full; --sampler random does not"
            )
        if names := unequal(search.space):
            notes.append(f"unlike budgets: {', '.join(names)} differs between configurations")
        if any(gain.reference == REFERENCE != search.strategy for gain in self.gains):
            notes.append(
                f"{REFERENCE} had one configuration, the best was chosen from "
                f"{len(self.configurations)}"
            )
        return notes


def judge(lock: SweepLock, trials: Sequence[Trial], cells: Mapping[CellKey, CellResult]) -> Outcome:
    """Choose the winner, and say what it gained.

    Arguments:
        lock: of the sweep.
        trials: in order.
        cells: results of all that has run, by key.
    """
    outcome = Outcome(lock, tuple(trials))
    scored = [trial for trial in outcome.configurations if trial.score is not None]
    if not scored:
        return outcome
    plan, alpha = lock.run.plan, lock.search.alpha
    found = [_scores(trial.strategy, cells, plan.seeds) for trial in scored]
    scores = np.stack([row for row in found if row is not None])
    best = int(scores.mean(axis=(1, 2)).round(12).argmax())
    gains = []
    for name in _references(outcome):
        untouched = plan.strategy(name).injector is None
        reference = _scores(name, cells, plan.seeds[:1] if untouched else plan.seeds)
        if reference is not None:
            gains.append(_gain(name, scores, best, reference, alpha))
    return attrs.evolve(
        outcome, winner=scored[best], gains=tuple(gains), items=int(scores.shape[2])
    )


def document(outcome: Outcome) -> dict[str, Any]:
    """Return a sweep's result as plain data, the content of `sweep.json`."""
    search, plan = outcome.lock.search, outcome.lock.run.plan
    return {
        "schema_version": 1,
        "strategy": search.strategy,
        "task": plan.tasks[0],
        "split": plan.split,
        "items": outcome.items,
        "seeds": list(plan.seeds),
        "sampler": {"name": search.sampler, "seed": search.seed, "optuna": search.optuna},
        "space": {dimension.name: str(dimension) for dimension in search.space},
        "asked_for": search.trials,
        "configurations": len(outcome.configurations),
        "failed": len(outcome.failed),
        "winner": None if outcome.winner is None else outcome.winner.number,
        "gains": [attrs.asdict(gain) for gain in outcome.gains],
        "alpha": search.alpha,
        "notes": outcome.notes,
        "trials": [attrs.asdict(trial) for trial in outcome.trials],
        "command": search.command,
        "confirm": search.confirm,
    }


def _references(outcome: Outcome) -> list[str]:
    """Return the rows that gains are measured from, the strategy as registered first."""
    search, plan = outcome.lock.search, outcome.lock.run.plan
    others = [s.name for s in plan.strategies if s.name != search.strategy]
    return [search.strategy, *sorted(others, key=lambda name: name != REFERENCE)]


def _gain(name: str, scores: FloatArray, best: int, reference: FloatArray, alpha: float) -> Gain:
    differences = scores - reference
    # What is the reference itself is no look at it.
    looks = [place for place, d in enumerate(differences) if place == best or d.any()]
    n_boot = max(DEFAULT_DRAWS, draws_needed(alpha, len(looks)))
    adjusted = holm([paired_p_value(differences[place], n_boot=n_boot) for place in looks])
    corrected = corrected_gain(scores, reference)
    return Gain(
        reference=name,
        score=100.0 * float(reference.mean()),
        naive=100.0 * float(differences[best].mean()),
        corrected=None if corrected is None else 100.0 * corrected,
        p=adjusted[looks.index(best)],
    )


def _scores(
    name: str, cells: Mapping[CellKey, CellResult], seeds: Sequence[int]
) -> FloatArray | None:
    """Return a row's scores `[seeds, items]`, in the order of seeds; None if a seed has none."""
    found = {key.seed: cell for key, cell in cells.items() if key.strategy == name}
    if any(seed not in found or found[seed].failed for seed in seeds):
        return None
    return np.array([[score.score for score in found[seed].scores] for seed in seeds])

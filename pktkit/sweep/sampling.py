"""Which configuration is tried next: optuna's samplers, or every one of a grid."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from pktkit.errors import UsageError
from pktkit.sweep.space import Dimension, size

SAMPLERS = ("tpe", "random", "grid")

Sampled = Mapping[str, float]
"""By `stage.option`: a place in a list of values, or a number of a range."""


class Sampler(Protocol):
    """Proposes configurations one after another; the same again for the same seed and scores."""

    def ask(self) -> Sampled | None:
        """Return the next configuration, or None when there is none."""

    def tell(self, score: float | None) -> None:
        """Hear what came of it; None if it failed."""


def make_sampler(name: str, space: Sequence[Dimension], seed: int) -> Sampler:
    """Return one of `SAMPLERS`.

    Raises:
        UsageError: optuna is not installed, or a grid is asked for over a range without steps.
    """
    return Grid(space, seed) if name == "grid" else Optuna(name, space, seed)


def require_optuna() -> Any:
    """Import optuna.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UsageError(
            "this sampler needs the package optuna. Type: pip install 'pktkit[sweep]', or use "
            "--sampler grid."
        ) from error
    return optuna


class Grid:
    """Every configuration of a space, in an order drawn with the seed."""

    def __init__(self, space: Sequence[Dimension], seed: int) -> None:
        for dimension in space:
            if dimension.points is None:
                raise UsageError(
                    f"--sampler grid: {dimension.name} takes any number of {dimension}. Give a "
                    "list, or a step: LOW..HIGH:STEP."
                )
        self._rest = self._configurations(space, seed)

    def ask(self) -> Sampled | None:
        """Return the next configuration of the grid."""
        return next(self._rest, None)

    def tell(self, score: float | None) -> None:
        """A grid does not learn."""

    @staticmethod
    def _configurations(space: Sequence[Dimension], seed: int) -> Iterator[Sampled]:
        # Shuffled, so that the first few of a large grid are no corner of it.
        axes = [range(len(d.values)) if d.values else d.points or () for d in space]
        names = [dimension.name for dimension in space]
        order = list(range(size(space) or 0))
        random.Random(seed).shuffle(order)
        grid = list(itertools.product(*axes))
        return (dict(zip(names, grid[place], strict=True)) for place in order)


class Optuna:
    """A sampler of optuna: `random`, or `tpe`, the tree-structured Parzen estimator.

    Bergstra et al., "Algorithms for hyper-parameter optimization", NIPS 2011, section 4.
    """

    def __init__(self, name: str, space: Sequence[Dimension], seed: int) -> None:
        optuna = require_optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        kind = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[name]
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(sampler=kind(seed=seed), direction="maximize")
        self._distributions = {d.name: _distribution(optuna, d) for d in space}
        self._trial: Any = None

    def ask(self) -> Sampled | None:
        """Return the next configuration."""
        self._trial = self._study.ask(self._distributions)
        return dict(self._trial.params)

    def tell(self, score: float | None) -> None:
        """Let the sampler learn from a score; a failure teaches it nothing."""
        if score is None:
            self._study.tell(self._trial, state=self._failed)
        else:
            self._study.tell(self._trial, score)


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    if dimension.values:
        return optuna.distributions.CategoricalDistribution(range(len(dimension.values)))
    if dimension.whole:
        return optuna.distributions.IntDistribution(
            int(dimension.low),
            int((dimension.points or [dimension.high])[-1]),
            log=dimension.log,
            step=int(dimension.step) or 1,
        )
    high = dimension.points[-1] if dimension.points else dimension.high
    return optuna.distributions.FloatDistribution(
        dimension.low, high, log=dimension.log, step=dimension.step or None
    )

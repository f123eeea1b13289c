"""Equal budgets: how many steps an arm takes to spend what the reference arm spends.

The reference is `sft` where it runs, else the first strategy that injects anything. Steps are the
one thing that is set: rows, batch and learning rate stay as they are, and the learning rate's
schedule spans the steps an arm takes. What an arm costs is learnt in a trial: the arm runs with a
handful of its steps, spread over the run, and is rolled back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.budget import REFERENCE

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.encoding import EncodedSplit
    from pktkit.meter import Meter
    from pktkit.training import TransferData

FEWEST_TRIED = 4
"""Steps of a trial at least."""


def reference_arm(strategies: Sequence[Strategy]) -> Strategy | None:
    """Return the arm whose budget the others are held to; None if nothing is injected."""
    arms = [strategy for strategy in strategies if strategy.injector is not None]
    return next((arm for arm in arms if arm.name == REFERENCE), arms[0] if arms else None)


@attrs.frozen(eq=False)
class Costs:
    """What an arm spends, as a function of its steps.

    Arguments:
        before: spent whatever the steps.
        per_token: spent for each token of the steps' rows.
        per_row: spent for each row that the steps read for the first time.
        steps: endless `(tokens, rows read for the first time)` of each step, called anew.
    """

    before: float
    per_token: float
    per_row: float
    steps: Callable[[], Iterator[tuple[int, int]]]

    def after(self, steps: int) -> float:
        """Return what is spent after so many steps."""
        taken = itertools.islice(self.steps(), steps)
        return self.before + sum(self._step(*step) for step in taken)

    def steps_for(self, allowed: float) -> int | None:
        """Return the steps that come closest to an amount, at least 1; None if steps are free."""
        if self.per_token <= 0:
            return None
        spent = self.before
        for count, step in enumerate(self.steps()):
            cost = self._step(*step)
            if spent + cost / 2 >= allowed:
                return max(1, count)
            spent += cost
        return None

    def _step(self, tokens: int, fresh: int) -> float:
        return self.per_token * tokens + self.per_row * fresh


def trial_steps(data: TransferData, blocks: int) -> int:
    """Return how many steps a trial takes: as many for each block, which may train in turn."""
    return min(data.budget.steps, blocks * math.ceil(FEWEST_TRIED / blocks))


def flop_costs(data: TransferData, meter: Meter, taken: int) -> Costs:
    """Return an arm's operations by steps, from a trial of `taken` steps.

    Passes grow with tokens, padding included; readings with rows that are new to the arm.
    """
    steps = _walk(data, padded=True)
    tried = list(itertools.islice(steps(), taken))
    tokens, rows = (sum(column) for column in zip(*tried, strict=True))
    return Costs(
        before=meter.total - meter.trained - meter.trained_readings,
        per_token=meter.trained / tokens,
        per_row=meter.trained_readings / rows,
        steps=steps,
    )


def token_costs(data: TransferData, tokens: int, taken: int) -> Costs:
    """Return the tokens that an arm trains on by steps, from a trial that read `tokens`."""
    steps = _walk(data, padded=False)
    tried = sum(step for step, _ in itertools.islice(steps(), taken))
    return Costs(before=0, per_token=tokens / tried, per_row=0, steps=steps)


def _walk(data: TransferData, *, padded: bool) -> Callable[[], Iterator[tuple[int, int]]]:
    """Return what gives the tokens of each step's rows, and how many rows are new."""
    from pktkit.training.loop import row_order

    split, budget = data.probe.encoded("train"), data.budget

    def steps() -> Iterator[tuple[int, int]]:
        seen: set[int] = set()
        for rows in row_order(data.rows, budget.batch_size, data.seed):
            fresh = len(set(rows) - seen)
            seen.update(rows)
            yield _tokens(split, rows, budget.accumulate, padded=padded), fresh

    return steps


def _tokens(split: EncodedSplit, rows: Sequence[int], parts: int, *, padded: bool) -> int:
    lengths = [len(split.items[row].input_ids) for row in rows]
    if not padded:
        return sum(lengths)
    micro = [lengths[part::parts] for part in range(min(parts, len(rows)))]
    return sum(max(each) * len(each) for each in micro)

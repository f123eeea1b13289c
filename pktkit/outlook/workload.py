"""How much text a task brings: counted with the target's tokenizer, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.checkpoints import quiet
from pktkit.encoding import encode_split
from pktkit.transfer import transfer_rows

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.compare.plan import Plan
    from pktkit.encoding import EncodedItem
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Task


@attrs.frozen(eq=False)
class Workload:
    """The text of one task.

    Arguments:
        task: as the plan scores it.
        train: rows that can be learnt from, longest first; empty where no arm learns.
        fingerprint: of these rows; empty without.
        scored: lengths in tokens of the items scored, answers included.
    """

    task: Task
    train: tuple[EncodedItem, ...]
    fingerprint: str
    scored: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, plan: Plan, target: LoadedModel) -> Workload:
        """Encode what a plan reads.

        Raises:
            UsageError: no row fits.
        """
        limit = plan.settings.max_length

        def encoded(split: str) -> tuple[tuple[EncodedItem, ...], str]:
            with quiet():
                found = encode_split(
                    target.tokenizer,
                    task.items(split),
                    name=split,
                    join=task.template,
                    max_length=limit,
                )
            order = sorted(found.items, key=lambda item: -len(item.input_ids))
            return tuple(order), found.fingerprint()

        learns = any(strategy.injector is not None for strategy in plan.strategies)
        train, fingerprint = encoded("train") if learns else ((), "")
        scored, _ = encoded(plan.split)
        return cls(task, train, fingerprint, tuple(len(item.input_ids) for item in scored))

    def rows(self, budget: Budget) -> int:
        """Return how many rows one arm learns from.

        Raises:
            UsageError: fewer remain than `budget.unlabelled` asks for.
        """
        drawn, further = transfer_rows(len(self.train), budget, 0)
        return len(drawn) + len(further)

    def micro_batch(self, budget: Budget) -> Sequence[EncodedItem]:
        """Return the largest micro-batch that can be drawn: its longest rows."""
        return self.train[: -(-min(budget.batch_size, len(self.train)) // budget.accumulate)]

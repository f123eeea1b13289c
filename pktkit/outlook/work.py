"""Operations by formula, for a rough estimate of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pktkit.flops import ForwardCost

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.outlook.workload import Workload
    from pktkit.pair import LoadedModel
    from pktkit.touched import Touched

EFFICIENCY = 0.3
"""Share of a matrix product's speed that models of this size reach in practice (rough)."""


def training_flops(
    target: LoadedModel, touched: Touched | None, budget: Budget, workload: Workload
) -> int:
    """Return the operations of one arm's training; nothing where values are written once."""
    if touched is not None and not touched.trained:
        return 0
    passes = 2 if touched is not None and touched.adapter_used else 3
    passes += budget.checkpointing
    rows = workload.train
    share = budget.steps * min(budget.batch_size, len(rows)) / max(1, len(rows))
    cost = ForwardCost.of(target.anatomy)
    epoch = cost.blocks_flops(len(row.input_ids) for row in rows)
    epoch += cost.head_flops(sum(row.supervised_count for row in rows))
    return int(passes * share * epoch)


def reading_flops(source: LoadedModel, workload: Workload, *, kl: bool) -> int:
    """Return the operations of reading the train split once."""
    cost = ForwardCost.of(source.anatomy)
    head = cost.head_flops(sum(row.supervised_count for row in workload.train)) if kl else 0
    return cost.blocks_flops(len(row.input_ids) for row in workload.train) + head


def scoring_flops(model: LoadedModel, workload: Workload) -> int:
    """Return the operations of scoring every item once, with an answer of full length."""
    cost, new = ForwardCost.of(model.anatomy), workload.task.max_new_tokens
    lengths = [length + new for length in workload.scored]
    return cost.blocks_flops(lengths) + cost.head_flops(len(lengths) * new)

"""How sure the source is of each supervised token, as a weight per position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pktkit.values import Origin
from pktkit_latent.wanted import RowValues

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.training import TransferData


def gold_confidence(
    data: TransferData, origin: Origin, other: Mapping[int, int], *, answers_only: bool
) -> RowValues:
    """Return the probability that the origin gives each gold token, over the run's mean of it.

    A position where the source is wrong says little about how to be right. The mean is that of
    all positions which layer terms look at in the rows of the run, so that weights average to 1
    over an epoch and not in every micro-batch.

    Arguments:
        origin: whose probability; the placebo without a source has none of its.
        other: for the shuffled placebo, the row whose states and hence confidence stand in.
        answers_only: leave positions that predict the end of the sequence out of the mean.
    """
    items, rows = data.probe.encoded("train").items, sorted(data.rows)
    reader = data.probe.logits("train", origin)
    confidence, counted = [], []
    for start in range(0, len(rows), data.budget.batch_size):
        some = rows[start : start + data.budget.batch_size]
        read = [other[row] for row in some] if other else some
        parts = _gold(reader.read(read), [items[row] for row in read])
        for row, part in zip(some, parts, strict=True):
            count = items[row].supervised_count
            confidence.append(part[torch.arange(count) % len(part)])
            counted.append(_counted(items[row], answers_only))
    flat, mask = torch.cat(confidence), torch.cat(counted)
    mean = flat[mask].mean() if bool(mask.any()) else flat.mean()
    counts = {row: items[row].supervised_count for row in rows}
    return RowValues(counts, (flat / mean.clamp(min=1e-30))[None])


def _gold(logits: Tensor, items: Sequence[EncodedItem]) -> tuple[Tensor, ...]:
    """Return probabilities of the supervised tokens, `[count]` per item, on the CPU."""
    gold = torch.tensor([token for item in items for token in item.input_ids[item.supervised :]])
    precise = logits.float()
    picked = precise.gather(1, gold.to(precise.device)[:, None]).squeeze(1)
    chances = (picked - precise.logsumexp(dim=1)).exp().cpu()
    return chances.split([item.supervised_count for item in items])


def _counted(item: EncodedItem, answers_only: bool) -> Tensor:
    mask = torch.ones(item.supervised_count, dtype=torch.bool)
    if answers_only and item.ends:
        mask[-1] = False
    return mask

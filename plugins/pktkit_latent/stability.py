"""How much of an attribution is the luck of the items: a bootstrap over items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.converters import as_tuple

if TYPE_CHECKING:
    from torch import Tensor

LEVEL = 0.95
_DRAWS = 1 << 20
"""Resampled rows handled at a time."""


@attrs.frozen
class AttributionStability:
    """Scores of all blocks under resampling of the items; one entry per block.

    Arguments:
        mean: over the items.
        low, high: ends of the 95 % percentile interval of the mean.
        win_share: share of the resamples in which the block has the largest absolute score.
    """

    mean: tuple[float, ...] = attrs.field(converter=as_tuple)
    low: tuple[float, ...] = attrs.field(converter=as_tuple)
    high: tuple[float, ...] = attrs.field(converter=as_tuple)
    win_share: tuple[float, ...] = attrs.field(converter=as_tuple)


def attribution_stability(
    scores_per_item: Tensor, resamples: int, seed: int
) -> AttributionStability:
    """Resample items with replacement and score all blocks each time.

    Arguments:
        scores_per_item: `[items, blocks]`.
        resamples: how many times.
        seed: of the draws.
    """
    scores = scores_per_item.double().cpu()
    items, blocks = scores.shape
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, blocks, dtype=torch.float64)
    step = max(1, _DRAWS // items)
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        rows = torch.randint(items, (count, items), generator=generator)
        means[start : start + count] = scores[rows].mean(dim=1)
    outer = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = means.quantile(outer, dim=0)
    wins = torch.bincount(means.abs().argmax(dim=1), minlength=blocks)
    return AttributionStability(
        scores.mean(dim=0).tolist(), low.tolist(), high.tolist(), (wins / resamples).tolist()
    )

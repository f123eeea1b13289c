"""Neurons as vectors: where they stand in a model's projections, in pairs of source and target.

A feed-forward neuron is a row of the up projection and a column of the down projection. An
attention neuron (head h, channel k) is a column of the output projection and the row of the value
projection that feeds it: with grouped queries, row k of the key-value head that serves head h.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.errors import UsageError
from pktkit.updates import SparseUpdate
from pktkit_laten.reading import Half

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit_laten.attribution import Attribution

HALVES: Mapping[str, Half] = {
    "up": Half.FFN,
    "down": Half.FFN,
    "v": Half.ATTENTION,
    "o": Half.ATTENTION,
}
"""Projections that neurons live in, by the half they belong to."""

AXES: Mapping[str, int] = {"up": 0, "down": 1, "v": 0, "o": 1}
"""0 where a neuron is a row of the projection, 1 where it is a column."""


def value_rows(anatomy: Anatomy, neurons: Tensor) -> Tensor:
    """Return the rows of the value projection that feed attention neurons.

    Arguments:
        anatomy: of the model.
        neurons: columns of the output projection, int64.
    """
    head, channel = neurons // anatomy.head_dim, neurons % anatomy.head_dim
    served = head // (anatomy.n_heads // anatomy.n_kv_heads)
    return served * anatomy.head_dim + channel


def places(anatomy: Anatomy, projection: str, neurons: Tensor) -> Tensor:
    """Return the rows or columns of a projection that hold neurons of its half."""
    return value_rows(anatomy, neurons) if projection == "v" else neurons


def vectors(model: LoadedModel, block: int, projection: str, neurons: Tensor) -> Tensor:
    """Return neurons as vectors of the residual stream, `[neurons, D]`, fp32."""
    matrix = model.anatomy.projections(block)[projection].read(model.model)
    index = places(model.anatomy, projection, neurons).to(matrix.device)
    found = matrix.index_select(AXES[projection], index).float()
    return found.T if AXES[projection] else found


def neuron_count(anatomy: Anatomy, half: Half) -> int:
    """Return how many neurons a half has."""
    return anatomy.ffn_width if half is Half.FFN else anatomy.n_heads * anatomy.head_dim


def transfer_count(pair: ModelPair, half: Half, rate: float) -> int:
    """Return how many neurons of each block are paired: a share of the target's.

    `int(rate · neurons)` of the target for both models, as published; at most what the source has.

    Raises:
        UsageError: the share comes to no neuron.
    """
    available = neuron_count(pair.target.anatomy, half)
    count = int(rate * available)
    if count < 1:
        raise UsageError(
            f"a transfer rate of {rate:g} picks none of the {available} {half} neurons of a target "
            f"block; it must be at least {math.ceil(1e4 / available) / 1e4:g}."
        )
    return min(count, neuron_count(pair.source.anatomy, half))


@attrs.frozen(eq=False)
class Group:
    """Paired neurons of one half of one pair of blocks: the i-th of one with the i-th of the other.

    Arguments:
        half: which half.
        source_block, target_block: block indices.
        source, target: neurons, strongest first, int64.
    """

    half: Half
    source_block: int
    target_block: int
    source: Tensor
    target: Tensor


def locate(
    source: Attribution,
    target: Attribution,
    pairs: Mapping[Half, Sequence[tuple[int, int]]],
    counts: Mapping[Half, int],
) -> list[Group]:
    """Choose the strongest neurons of paired blocks in both models.

    Arguments:
        source, target: one item, read in each.
        pairs: `(source block, target block)` by half.
        counts: neurons per block by half.
    """
    return [
        Group(
            half=half,
            source_block=ours,
            target_block=theirs,
            source=source.strongest(half, ours, counts[half]),
            target=target.strongest(half, theirs, counts[half]),
        )
        for half in pairs
        for ours, theirs in pairs[half]
    ]


def source_vectors(
    source: LoadedModel, groups: Sequence[Group], modules: Sequence[str]
) -> dict[str, Tensor]:
    """Return the source's neurons by projection, `[groups × neurons, D_src]`, fp32."""
    return {
        name: torch.cat(
            [
                vectors(source, group.source_block, name, group.source)
                for group in groups
                if group.half is HALVES[name]
            ]
        )
        for name in modules
    }


def updates(
    anatomy: Anatomy, groups: Sequence[Group], deltas: Mapping[str, Tensor]
) -> Iterator[SparseUpdate]:
    """Yield the updates that put deltas where the target's neurons are.

    Arguments:
        anatomy: of the target.
        groups: as given to `source_vectors`.
        deltas: by projection, `[groups × neurons, D_tgt]` in the same order.
    """
    for name, values in deltas.items():
        chosen = [group for group in groups if group.half is HALVES[name]]
        parts = values.split([len(group.target) for group in chosen])
        for group, part in zip(chosen, parts, strict=True):
            index = places(anatomy, name, group.target).to(part.device)
            yield SparseUpdate(group.target_block, name, AXES[name], index, part)

"""One choice of coordinates for the whole model instead of one per matrix (ours).

Published windows choose alone: matrices of one block read and write at different offsets of the
residual stream, and cut through heads. Here everything that meets is chosen together: the same
residual coordinates in every matrix, the same neurons in gate, up and down, whole heads with the
key-value head they share, and inside a head the same channels for what is multiplied, rotary
channels in their pairs. The cut is then a smaller network of the source's own wiring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from pktkit.families import ATTENTION
from pktkit_seeking.matrices import canonical, main_source, main_sources, parameter_name
from pktkit_seeking.modules import EMBED, HEAD
from pktkit_seeking.picks import NOTHING, Picks, marginals, padded, top

if TYPE_CHECKING:
    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.values import LayerMap
    from pktkit_seeking.matrices import Matrix

WRITERS = ("o", "down")
"""Projections whose rows are residual coordinates; of the others, the columns are."""


@attrs.frozen(eq=False)
class Plan:
    """What the target's coordinates receive from the source's.

    Arguments:
        residual: `[D_tgt]`, source coordinate of each residual coordinate, for all matrices.
        blocks: by target block, the other sides of its matrices.
    """

    residual: Tensor
    blocks: Mapping[int, BlockPlan]

    def picks(self, matrix: Matrix) -> Picks:
        """Return rows and columns of one matrix.

        Raises:
            NonFiniteError: a score is not finite.
        """
        if matrix.name in (EMBED, HEAD):
            side = 1 if matrix.name == EMBED else 0
            tokens = torch.arange(matrix.scores.shape[side])
            inner = padded(tokens, matrix.shape[side])
        else:
            inner = self.blocks[matrix.block].inner(matrix.name)
        writes = matrix.name in (*WRITERS, EMBED)
        rows, columns = (self.residual, inner) if writes else (inner, self.residual)
        return Picks.of(matrix.scores, rows, columns)

    def described(self) -> dict[str, Any]:
        """Return coordinates and heads for diagnostics; -1 marks what receives zeros."""
        return {
            "residual": self.residual.tolist(),
            "heads": {
                block: {"groups": plan.groups.tolist(), "queries": plan.queries.tolist()}
                for block, plan in self.blocks.items()
            },
        }


@attrs.frozen(eq=False)
class BlockPlan:
    """What one target block receives besides residual coordinates; indices of the source block.

    Arguments:
        groups: `[n_kv_heads]`, key-value head.
        queries: `[n_heads]`, query head.
        channels: `[n_kv_heads, head_dim]`, channel of query and key heads of a group.
        value_channels: `[n_kv_heads, head_dim]`, channel of value heads and of `o`'s columns.
        neurons: `[ffn_width]`.
    """

    groups: Tensor
    queries: Tensor
    channels: Tensor
    value_channels: Tensor
    neurons: Tensor
    _head_dim: int

    def inner(self, name: str) -> Tensor:
        """Return the indices of the side of a projection that is not the residual stream."""
        if name not in ATTENTION:
            return self.neurons
        heads = self.queries if name in ("q", "o") else self.groups
        channels = self.channels if name in ("q", "k") else self.value_channels
        channels = channels.repeat_interleave(len(heads) // len(channels), dim=0)
        places = heads[:, None] * self._head_dim + channels
        return places.masked_fill((heads[:, None] < 0) | (channels < 0), NOTHING).flatten()


def coherent_plan(
    pair: ModelPair, layer_map: LayerMap, sensitivities: Mapping[str, Tensor]
) -> Plan:
    """Choose the most sensitive coordinates, heads, channels and neurons.

    Residual coordinates are ranked by their sensitivity summed over all matrices of the source
    blocks in use, embedding and LM head. A key-value head is ranked with its query heads; of a
    kept one, the most sensitive query heads stay. Where the target has more of something than
    the source, the rest receives zeros.

    Arguments:
        sensitivities: of every source parameter, by name.
    """
    source, target = pair.source, pair.target
    residual = _end_scores(source, sensitivities)
    scores = {}
    for block in main_sources(layer_map):
        scores[block], reading = _block_scores(source.anatomy, block, sensitivities)
        residual += reading
    width = target.anatomy.width
    blocks = {
        link.target: _block_plan(scores[main_source(link)], source, target)
        for link in layer_map.links
    }
    return Plan(padded(top(residual, width), width), blocks)


def _end_scores(source: LoadedModel, sensitivities: Mapping[str, Tensor]) -> Tensor:
    """Return the sensitivity of each residual coordinate in embedding and LM head, tied once."""
    ends = (source.anatomy.embedding.weight, source.anatomy.head_weight)
    names = dict.fromkeys(parameter_name(source, weight) for weight in ends)
    parts = [marginals(sensitivities[name])[1].cpu() for name in names]
    return torch.stack(parts).sum(dim=0)


def _block_scores(
    anatomy: Anatomy, block: int, sensitivities: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return each projection's sums along its inner side, and the sums along the residual side."""
    inner, residual = {}, torch.zeros(anatomy.width, dtype=torch.float64)
    for name, projection in anatomy.projections(block).items():
        by_row, by_column = marginals(canonical(projection, sensitivities[projection.parameter]))
        inner[name] = (by_column if name in WRITERS else by_row).cpu()
        residual += (by_row if name in WRITERS else by_column).cpu()
    return inner, residual


def _block_plan(
    scores: Mapping[str, Tensor], source: LoadedModel, target: LoadedModel
) -> BlockPlan:
    ours, theirs = source.anatomy, target.anatomy
    dim = ours.head_dim
    query, output = (scores[name].view(ours.n_kv_heads, -1, dim) for name in ("q", "o"))
    key, value = (scores[name].view(ours.n_kv_heads, dim) for name in ("k", "v"))
    by_head = query.sum(dim=2) + output.sum(dim=2)
    by_group = by_head.sum(dim=1) + key.sum(dim=1) + value.sum(dim=1)
    groups = padded(top(by_group, theirs.n_kv_heads), theirs.n_kv_heads)
    rotary = (rotary_channels(source), rotary_channels(target))
    queries, channels, value_channels = [], [], []
    per_group = theirs.n_heads // theirs.n_kv_heads
    for group in groups.tolist():
        if group == NOTHING:
            queries.append(torch.full((per_group,), NOTHING))
            channels.append(torch.full((theirs.head_dim,), NOTHING))
            value_channels.append(channels[-1])
            continue
        kept = top(by_head[group], per_group)
        queries.append(padded(kept + group * query.shape[1], per_group))
        matching = query[group, kept].sum(dim=0) + key[group]
        carrying = output[group, kept].sum(dim=0) + value[group]
        channels.append(head_channels(matching, theirs.head_dim, rotary))
        value_channels.append(head_channels(carrying, theirs.head_dim))
    neurons = torch.stack([scores[n] for n in ("gate", "up", "down") if n in scores]).sum(dim=0)
    return BlockPlan(
        groups=groups,
        queries=torch.cat(queries),
        channels=torch.stack(channels),
        value_channels=torch.stack(value_channels),
        neurons=padded(top(neurons, theirs.ffn_width), theirs.ffn_width),
        head_dim=dim,
    )


def head_channels(scores: Tensor, head_dim: int, rotary: tuple[int, int] = (0, 0)) -> Tensor:
    """Return which channel of a source head each channel of a target head receives.

    Rotary position embedding turns channels i and i + r/2 of a head together, for i below r/2.
    Where both models have it, pairs are ranked and placed as pairs, and the channels that do not
    turn among themselves. Equal heads are kept as they are.

    Arguments:
        scores: `[head_dim of the source]`.
        head_dim: of the target.
        rotary: how many channels turn, in source and target.

    Returns:
        `[head_dim]`; `NOTHING` where the source has no channel left of that kind.
    """
    turning, room = rotary if all(rotary) else (0, 0)
    half, half_room = turning // 2, room // 2
    pairs = padded(top(scores[:half] + scores[half:turning], half_room), half_room)
    rest = padded(top(scores[turning:], head_dim - room), head_dim - room)
    return torch.cat([pairs, _shifted(pairs, half), _shifted(rest, turning)])


def rotary_channels(model: LoadedModel) -> int:
    """Return how many channels of a head turn with the position; 0 without rotary embedding.

    Read from the frequencies themselves, because configurations name the share differently.
    """
    for name, buffer in model.model.named_buffers():
        if name.endswith("inv_freq"):
            return 2 * buffer.numel()
    return 0


def _shifted(indices: Tensor, by: int) -> Tensor:
    return torch.where(indices == NOTHING, NOTHING, indices + by)

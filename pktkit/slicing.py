"""Which parts of one model go where in another: residual coordinates, heads, channels, neurons.

A slice of a model is coherent when every matrix that touches an axis agrees on it: one set of
residual coordinates for the whole model; within a block, query heads stay with the key head they
read, the channels of a rotary pair stay together, and a feed-forward neuron keeps its gate, its up
row and its down column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pktkit.families import Anatomy, Projection

OUTPUT_SIDE = {"q": "q", "k": "k", "v": "v", "gate": "ffn", "up": "ffn"}
"""Projections that read the residual stream, and the inner axis of their rows."""
INPUT_SIDE = {"o": "o", "down": "ffn"}
"""Projections that write to the residual stream, and the inner axis of their columns."""


@attrs.frozen(eq=False)
class Placement:
    """Which indices of a source's axis go to which of a target's.

    Arguments:
        source, target: int64 `[n]`, on the CPU; index `source[i]` goes to `target[i]`. No target
            index occurs twice; a source index does where a key head serves several groups.
    """

    source: Tensor
    target: Tensor

    @classmethod
    def leading(cls, source_size: int, target_size: int) -> Placement:
        """Keep the first indices that both axes have."""
        both = torch.arange(min(source_size, target_size))
        return cls(both, both)

    @classmethod
    def largest(cls, scores: Tensor, target_size: int) -> Placement:
        """Keep the indices of the largest scores `[source_size]`, in their order."""
        kept = largest(scores, target_size)
        return cls(kept, torch.arange(len(kept)))

    def __len__(self) -> int:
        return len(self.source)


@attrs.frozen(eq=False)
class BlockPlacement:
    """Where everything inside one source block goes.

    Arguments:
        residual: coordinates of the residual stream.
        q, k, v: rows of these projections.
        o: columns of the `o` projection.
        ffn: neurons, rows of `gate` and `up`, columns of `down`.
        qk_channels: channels within a head of queries and keys, for norms of these.
    """

    residual: Placement
    q: Placement
    k: Placement
    v: Placement
    o: Placement
    ffn: Placement
    qk_channels: Placement

    def inner(self, projection: str) -> Placement:
        """Return the placement of a projection's inner axis: rows, or for `o` `down` columns."""
        axis = OUTPUT_SIDE.get(projection) or INPUT_SIDE[projection]
        placement: Placement = getattr(self, axis)
        return placement

    def sides(self, projection: str) -> tuple[Placement, Placement]:
        """Return the placements of a projection's rows and columns, `[out, in]`."""
        inner = self.inner(projection)
        return (self.residual, inner) if projection in INPUT_SIDE else (inner, self.residual)

    def norm(self, name: str) -> Placement:
        """Return the placement of a block's norm by its canonical name."""
        return self.qk_channels if name in ("q", "k") else self.residual


class Slicer(Protocol):
    """Decides which parts of a source go where in a target."""

    residual: Placement

    def block(self, source_block: int) -> BlockPlacement:
        """Return where the parts of a source block go, in whatever target block."""


class LeadingSlicer:
    """Keeps what comes first: leading coordinates, heads, channels of every head, and neurons.

    Query heads and key heads are each cut on their own, so where models share keys among different
    numbers of queries, a query head may land with another key head.
    """

    def __init__(self, source: Anatomy, target: Anatomy) -> None:
        self.residual = Placement.leading(source.width, target.width)
        channels = Placement.leading(source.head_dim, target.head_dim)
        queries = [(head, head) for head in range(min(source.n_heads, target.n_heads))]
        keys = [(head, head) for head in range(min(source.n_kv_heads, target.n_kv_heads))]
        sizes = (source.head_dim, target.head_dim)
        q, k = within_heads(queries, channels, sizes), within_heads(keys, channels, sizes)
        ffn = Placement.leading(source.ffn_width, target.ffn_width)
        self._block = BlockPlacement(self.residual, q, k, k, q, ffn, channels)

    def block(self, source_block: int) -> BlockPlacement:
        """Return the placement, the same for every block."""
        return self._block


class NormSlicer:
    """Keeps what has the largest Frobenius norm, in its order.

    - *Residual coordinates* by the norm of everything in the whole model that reads or writes
      them (projections, embedding, LM head): one set for all blocks.
    - *Key heads* with their queries, by the norm of their k and v rows and their queries' q rows
      and o columns; within each, the query heads of the largest norm. A target with more key
      heads than the source gets groups split among several, each with a copy of the key head.
    - *Channels* where the size of a head differs: the same in all heads of a block, rotary pairs
      together. Their frequencies then differ from the source's, which only equal sizes avoid.
    - *Neurons* by the norm of their gate and up rows and down column.

    Biases and norms do not count. Where the target has more than the source, all is kept.
    """

    def __init__(self, source: Anatomy, target: Anatomy) -> None:
        self._source, self._target = source, target
        self.residual = Placement.largest(residual_scores(source), target.width)

    def block(self, source_block: int) -> BlockPlacement:
        """Return where the parts of a source block go."""
        source, target = self._source, self._target
        heads = HeadScores.of(source, source_block)
        sizes = (source.head_dim, target.head_dim)
        qk = rotary_placement(heads.qk_channels, source, target)
        vo = Placement.largest(heads.vo_channels, target.head_dim)
        groups = heads.groups(target)
        keys = [(group.key, new) for new, group in enumerate(groups)]
        share = target.n_heads // target.n_kv_heads
        queries = [
            (head, new * share + member)
            for new, group in enumerate(groups)
            for member, head in enumerate(group.queries)
        ]
        return BlockPlacement(
            residual=self.residual,
            q=within_heads(queries, qk, sizes),
            k=within_heads(keys, qk, sizes),
            v=within_heads(keys, vo, sizes),
            o=within_heads(queries, vo, sizes),
            ffn=Placement.largest(neuron_scores(source, source_block), target.ffn_width),
            qk_channels=qk,
        )


@attrs.frozen
class Group:
    """A key head and the query heads that are kept with it, ascending."""

    key: int
    queries: tuple[int, ...]


@attrs.frozen(eq=False)
class HeadScores:
    """Squared norms of one block's attention, fp64 on the CPU.

    Arguments:
        keys: `[n_kv_heads]`, k and v rows.
        queries: `[n_kv_heads, queries per key head]`, q rows and o columns.
        qk_channels: `[head_dim]`, q and k rows summed over heads.
        vo_channels: `[head_dim]`, v rows and o columns summed over heads.
    """

    keys: Tensor
    queries: Tensor
    qk_channels: Tensor
    vo_channels: Tensor

    @classmethod
    def of(cls, anatomy: Anatomy, block: int) -> HeadScores:
        """Score the heads of a block."""
        projections = anatomy.projections(block)
        shape = (anatomy.n_kv_heads, -1, anatomy.head_dim)
        q, k, v, o = (
            energy(anatomy, projections[name], axis).reshape(shape)
            for name, axis in (("q", 0), ("k", 0), ("v", 0), ("o", 1))
        )
        return cls(
            keys=(k + v).sum(dim=(1, 2)),
            queries=(q + o).sum(dim=2),
            qk_channels=(q.sum(dim=1) + k.sum(dim=1)).sum(dim=0),
            vo_channels=(v.sum(dim=1) + o.sum(dim=1)).sum(dim=0),
        )

    def groups(self, target: Anatomy) -> list[Group]:
        """Return the groups that a target keeps, in the source's order."""
        share = target.n_heads // target.n_kv_heads
        found: list[tuple[float, Group]] = []
        for key, queries in enumerate(self.queries):
            order = queries.argsort(descending=True, stable=True).tolist()
            last = len(order) if target.n_kv_heads > len(self.keys) else share
            for start in range(0, min(last, len(order)), share):
                kept = sorted(order[start : start + share])
                score = float(self.keys[key] + queries[kept].sum())
                heads = tuple(key * len(order) + member for member in kept)
                found.append((score, Group(key, heads)))
        chosen = largest(torch.tensor([score for score, _ in found]), target.n_kv_heads)
        return [found[index][1] for index in chosen.tolist()]


def within_heads(
    heads: Sequence[tuple[int, int]], channels: Placement, sizes: tuple[int, int]
) -> Placement:
    """Return the placement of all channels of heads on a flat, head-major axis.

    Arguments:
        heads: pairs of source head and target head.
        channels: placement within one head.
        sizes: channels per head of source and target.
    """
    ours = torch.tensor([head for head, _ in heads], dtype=torch.int64)
    theirs = torch.tensor([head for _, head in heads], dtype=torch.int64)
    return Placement(
        (ours[:, None] * sizes[0] + channels.source).flatten(),
        (theirs[:, None] * sizes[1] + channels.target).flatten(),
    )


def rotary_placement(scores: Tensor, source: Anatomy, target: Anatomy) -> Placement:
    """Place the channels of queries and keys by `scores` `[head_dim]`, rotary pairs together.

    Channel i of the first half of the rotated channels turns with channel i of the second. Where
    only one of the models rotates, no channel of the other has a partner to keep.
    """
    ours, theirs = rotary_channels(source) // 2, rotary_channels(target) // 2
    if not (ours and theirs):
        ours = theirs = 0
    pairs = Placement.largest(scores[:ours] + scores[ours : 2 * ours], theirs)
    plain = Placement.largest(scores[2 * ours :], target.head_dim - 2 * theirs)
    return Placement(
        torch.cat([pairs.source, pairs.source + ours, plain.source + 2 * ours]),
        torch.cat([pairs.target, pairs.target + theirs, plain.target + 2 * theirs]),
    )


def rotary_channels(anatomy: Anatomy) -> int:
    """Return how many channels of a head are rotated by position, 0 without rotary embeddings."""
    frequencies = [
        buffer.numel()
        for name, buffer in anatomy.model.named_buffers()
        if name.endswith("inv_freq")
    ]
    return min(2 * max(frequencies, default=0), anatomy.head_dim)


def residual_scores(anatomy: Anatomy) -> Tensor:
    """Return the squared norm of all that touches each residual coordinate, fp64 `[width]`."""
    total = squares(anatomy.embedding.weight, 1)
    if not anatomy.tied:
        total += squares(anatomy.head_weight, 1)
    for block in range(anatomy.n_blocks):
        for name, projection in anatomy.projections(block).items():
            total += energy(anatomy, projection, 0 if name in INPUT_SIDE else 1)
    return total


def neuron_scores(anatomy: Anatomy, block: int) -> Tensor:
    """Return the squared norm of each feed-forward neuron of a block, fp64 `[ffn_width]`."""
    scores = torch.zeros(anatomy.ffn_width, dtype=torch.float64)
    for name, projection in anatomy.projections(block).items():
        if name in ("gate", "up", "down"):
            scores += energy(anatomy, projection, 1 if name == "down" else 0)
    return scores


def energy(anatomy: Anatomy, projection: Projection, axis: int) -> Tensor:
    """Return squared norms of a projection's rows (axis 0) or columns (axis 1)."""
    return squares(projection.read(anatomy.model), axis)


def squares(matrix: Tensor, axis: int) -> Tensor:
    """Return the squared norms along one axis of a matrix, fp64 on the CPU."""
    norms = torch.linalg.vector_norm(matrix.detach(), dim=1 - axis, dtype=torch.float64)
    return norms.square().cpu()


def largest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the largest scores, ascending; the first of equals wins."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values

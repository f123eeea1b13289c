"""Access to a split's states and logits by row, whether stored or computed live."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.activations.recording import EMBEDDING, forward, record
from pktkit.encoding import EncodedSplit, collate, padding_id
from pktkit.meter import uncounted
from pktkit.values import Interface

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pktkit.pair import LoadedModel


def _elsewhere(noted: Callable[[Sequence[int]], None]) -> contextlib.AbstractContextManager[None]:
    """Return the context to run a model in for rows: not counted again where they are noted."""
    return contextlib.nullcontext() if noted is unnoted else uncounted()


def unnoted(rows: Sequence[int]) -> None:
    """Note nothing about rows that are read."""


@attrs.define(eq=False)
class RowIndex:
    """Where each row's predicting positions lie in a flat `[tokens, …]` tensor.

    Arguments:
        starts, counts: of each row.
        picks: which of its positions each row is read at, in order; None for all of them.
    """

    starts: Sequence[int]
    counts: Sequence[int]
    picks: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(
        cls,
        split: EncodedSplit,
        order: Sequence[int] | None = None,
        picks: Sequence[Sequence[int]] | None = None,
    ) -> RowIndex:
        """Index all rows of a split.

        Arguments:
            split: the rows.
            order: the order of rows in which their tokens lie; None for the split's own.
            picks: per row, which of its positions are read; None for all.
        """
        counts = [item.supervised_count for item in split.items]
        starts, position = [0] * len(counts), 0
        for row in range(len(counts)) if order is None else order:
            starts[row] = position
            position += counts[row]
        return cls(starts, counts, picks)

    def positions(self, rows: Sequence[int], lengths: Sequence[int] | None = None) -> Tensor:
        """Return flat positions of `rows`, row after row.

        With `lengths`, each row is cut or repeated cyclically to that many positions, which is
        how one item's states stand in for another's.
        """
        import torch

        parts = []
        for i, row in enumerate(rows):
            local = torch.arange(self.counts[row])
            if self.picks is not None:
                local = torch.tensor(self.picks[row])
            length = len(local) if lengths is None else lengths[i]
            parts.append(self.starts[row] + local[torch.arange(length) % len(local)])
        return torch.cat(parts)


@attrs.frozen(eq=False)
class Stored:
    """A forward reading: shards of consecutive tokens, seen as one."""

    shards: Sequence[Mapping[str, Tensor]]
    _ends: tuple[int, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        sizes = [len(next(iter(shard.values()))) for shard in self.shards]
        object.__setattr__(self, "_ends", tuple(itertools.accumulate(sizes)))

    def gather(self, name: str, positions: Tensor) -> Tensor:
        """Return the tokens at flat positions of a tensor, `[tokens, …]`."""
        import torch

        if len(self.shards) == 1:
            return self.shards[0][name][positions]
        number = torch.bucketize(positions, torch.tensor(self._ends), right=True)
        first = self.shards[0][name]
        gathered = first.new_empty(len(positions), *first.shape[1:])
        for shard in number.unique().tolist():
            here = number == shard
            begin = self._ends[shard - 1] if shard else 0
            gathered[here] = self.shards[shard][name][positions[here] - begin]
        return gathered


def visiting_order(split: EncodedSplit) -> list[int]:
    """Return the rows by length, in which order a stored reading holds them."""
    return sorted(range(len(split.items)), key=lambda row: len(split.items[row].input_ids))


@attrs.define(eq=False)
class StateReader:
    """States of chosen blocks of one model at a split's predicting positions.

    `exact_share` is the share of positions at which the model read has read exactly as much text
    as the target: 1 unless the tokenizers differ.
    """

    split: EncodedSplit
    blocks: tuple[int, ...]
    interface: Interface
    index: RowIndex
    dtype: torch.dtype
    stored: Stored | None
    live: LoadedModel | None
    exact_share: float = 1.0
    _noted: Callable[[Sequence[int]], None] = unnoted

    @classmethod
    def of_model(
        cls,
        model: LoadedModel,
        split: EncodedSplit,
        blocks: Sequence[int],
        interface: Interface = Interface.RESIDUAL,
    ) -> StateReader:
        """Return a reader that runs a model whenever it is asked: the model as it is then."""
        index = RowIndex.of(split)
        return cls(split, tuple(blocks), interface, index, model.model.dtype, None, model)

    def read(self, rows: Sequence[int], lengths: Sequence[int] | None = None) -> dict[int, Tensor]:
        """Return `[tokens, D]` by block for the given rows, in row order and the model's dtype.

        Arguments:
            rows: rows of the split.
            lengths: positions wanted per row, see `RowIndex.positions`.
        """
        self._noted(rows)
        if self.stored is not None:
            stored, positions = self.stored, self.index.positions(rows, lengths)
            return self._selected(lambda name: stored.gather(name, positions).to(self.dtype))
        assert self.live is not None
        wanted = self.read_blocks
        with _elsewhere(self._noted):
            tensors, _ = forward_states(self.live, self.split, rows, wanted, logits=False)
        local = RowIndex.of(
            EncodedSplit(self.split.name, tuple(self.split.items[row] for row in rows)),
            picks=None if self.index.picks is None else [self.index.picks[row] for row in rows],
        )
        positions = local.positions(range(len(rows)), lengths)
        return self._selected(lambda name: tensors[name][positions.to(tensors[name].device)])

    @property
    def read_blocks(self) -> tuple[int, ...]:
        """Blocks whose residual stream is read: a contribution is a difference of two."""
        if self.interface is Interface.RESIDUAL:
            return self.blocks
        return tuple(sorted({b for block in self.blocks for b in (block - 1, block)}))

    def _selected(self, take: Callable[[str], Tensor]) -> dict[int, Tensor]:
        """Return states at the reader's interface, out of those of the residual stream."""
        found = {block: take(f"block.{block}") for block in self.read_blocks}
        if self.interface is Interface.RESIDUAL:
            return found
        return {block: found[block] - found[block - 1] for block in self.blocks}


@attrs.define(eq=False)
class LogitReader:
    """Logits of one model at a split's predicting positions."""

    split: EncodedSplit
    index: RowIndex
    _stored: Stored | None
    _live: LoadedModel | None
    _noted: Callable[[Sequence[int]], None] = unnoted

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return `[tokens, V]` for the given rows, in row order."""
        self._noted(rows)
        if self._stored is not None:
            return self._stored.gather("logits", self.index.positions(rows))
        assert self._live is not None
        with _elsewhere(self._noted):
            return forward_states(self._live, self.split, rows, (), logits=True)[1]


def forward_states(
    model: LoadedModel,
    split: EncodedSplit,
    rows: Sequence[int],
    blocks: Sequence[int],
    *,
    logits: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run one batch without gradients.

    Returns:
        states `block.<i>` → `[tokens, D]` (`block.-1` is the stream before the first block),
        and logits `[tokens, V]` (empty unless asked for).
    """
    import torch

    device = model.anatomy.embedding.weight.device
    batch = collate(split, rows, pad_id=padding_id(model.tokenizer), device=device)
    recorded = sorted({max(block, 0) for block in blocks})
    with torch.no_grad(), record(model.anatomy, recorded, batch) as recording:
        output = forward(model.model, batch)
    states = {}
    for block in blocks:
        states[f"block.{block}"] = (
            recording.before(0) if block == EMBEDDING else recording.after(block)
        )
    return states, output if logits else output.new_zeros(0)

"""Access to a split's states and logits by row, whether stored or computed live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.encoding import EncodedSplit, collate, padding_id
from pktkit.recording import EMBEDDING, forward, record
from pktkit.values import Interface

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel


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
    def of(cls, split: EncodedSplit, picks: Sequence[Sequence[int]] | None = None) -> RowIndex:
        """Index all rows of a split, in order, read at the given positions of each."""
        counts = [item.supervised_count for item in split.items]
        starts, position = [], 0
        for count in counts:
            starts.append(position)
            position += count
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
    _stored: Mapping[str, Tensor] | None
    _live: LoadedModel | None
    exact_share: float = 1.0

    def read(self, rows: Sequence[int], lengths: Sequence[int] | None = None) -> dict[int, Tensor]:
        """Return `[tokens, D]` by block for the given rows, in row order.

        Arguments:
            rows: rows of the split.
            lengths: positions wanted per row, see `RowIndex.positions`.
        """
        if self._stored is not None:
            positions = self.index.positions(rows, lengths)
            return {block: self._select(self._stored, block, positions) for block in self.blocks}
        assert self._live is not None
        tensors, _ = forward_states(self._live, self.split, rows, self._wanted(), logits=False)
        local = RowIndex.of(
            EncodedSplit(self.split.name, tuple(self.split.items[row] for row in rows)),
            None if self.index.picks is None else [self.index.picks[row] for row in rows],
        )
        positions = local.positions(range(len(rows)), lengths)
        return {block: self._select(tensors, block, positions) for block in self.blocks}

    def _wanted(self) -> tuple[int, ...]:
        if self.interface is Interface.RESIDUAL:
            return self.blocks
        return tuple(sorted({b for block in self.blocks for b in (block - 1, block)}))

    def _select(self, tensors: Mapping[str, Tensor], block: int, positions: Tensor) -> Tensor:
        after = tensors[f"block.{block}"]
        positions = positions.to(after.device)
        if self.interface is Interface.RESIDUAL:
            return after[positions]
        return after[positions] - tensors[f"block.{block - 1}"][positions]


@attrs.define(eq=False)
class LogitReader:
    """Logits of one model at a split's predicting positions."""

    split: EncodedSplit
    index: RowIndex
    _stored: Mapping[str, Tensor] | None
    _live: LoadedModel | None

    def read(self, rows: Sequence[int]) -> Tensor:
        """Return `[tokens, V]` for the given rows, in row order."""
        if self._stored is not None:
            return self._stored["logits"][self.index.positions(rows)]
        assert self._live is not None
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

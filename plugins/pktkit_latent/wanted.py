"""The aligned states a target is steered towards, ready to compare, by training row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.probe.readers import RowIndex

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import Batch
    from pktkit.probe import StateReader
    from pktkit.training import TransferData
    from pktkit.values import TargetStates

FREE_SHARE = 0.25
"""Share of an accelerator's free memory that prepared states may take."""


def item_permutation(rows: int, seed: int) -> list[int]:
    """Return a random cyclic order of all rows: every row reads another row, if there is one."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator).tolist()
    other = [0] * rows
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        other[here] = there
    return other


def others(rows: Sequence[int], seed: int) -> dict[int, int]:
    """Return for each row of a run another of its rows, itself only where there is no other."""
    ascending = sorted(rows)
    order = item_permutation(len(ascending), seed)
    return {row: ascending[place] for row, place in zip(ascending, order, strict=True)}


@attrs.define(eq=False)
class RowValues:
    """Values per position of chosen rows, found by row.

    Arguments:
        counts: positions per chosen row.
        values: `[names, tokens, …]`, row after row in the order of `counts`.
        names: what the first dimension counts, e.g. target blocks.
    """

    counts: Mapping[int, int]
    values: Tensor
    names: tuple[int, ...] = (0,)
    _positions: dict[int, Tensor] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._positions, position = {}, 0
        for row, count in self.counts.items():
            self._positions[row] = torch.arange(position, position + count)
            position += count

    def read(self, rows: Sequence[int], names: Sequence[int], kept: Tensor) -> Tensor:
        """Return `[names, kept, …]`, on the device of `kept`, which indexes the rows' positions."""
        positions = torch.cat([self._positions[row] for row in rows])
        positions = positions.to(kept.device)[kept].to(self.values.device)
        if tuple(names) == self.names:
            return self.values.index_select(1, positions).to(kept.device)
        chosen = [self.values[self.names.index(name)] for name in names]
        return torch.stack([v.index_select(0, positions) for v in chosen]).to(kept.device)


@attrs.define(eq=False)
class Wanted:
    """Aligned states by training row.

    A map is a fixed function of the origin's states, so where the mapped states of all rows fit
    and no row would be prepared in vain, they are mapped once and only looked up while the
    target trains. Otherwise each micro-batch is read and mapped when it is needed.

    Arguments:
        states: the maps.
        reader: reads the origin's states by row.
        other: for the shuffled placebo, which row of the run stands in for each; else empty.
        prepared: the mapped states, where they were mapped beforehand.
    """

    states: TargetStates
    reader: StateReader
    other: Mapping[int, int] = attrs.field(factory=dict)
    prepared: RowValues | None = None

    @classmethod
    def open(cls, states: TargetStates, data: TransferData, device: torch.device) -> Wanted:
        """Open the reading, and map what fits; call it before the target changes."""
        reader = data.probe.states(
            "train", states.origin_blocks, interface=states.interface, origin=states.origin
        )
        other = others(data.rows, data.seed) if states.shuffle_items else {}
        wanted = cls(states, reader, other)
        if len(data.rows) <= data.budget.steps * data.budget.batch_size:
            wanted.prepared = wanted._prepare(data, device)
        return wanted

    def read(self, batch: Batch, blocks: Sequence[int], kept: Tensor) -> Tensor:
        """Return aligned states `[blocks, kept, D]` in fp32, on the device of `kept`.

        Arguments:
            batch: the micro-batch.
            blocks: target blocks.
            kept: `[kept]` int64, which of the batch's predicting positions.
        """
        if self.prepared is not None:
            return self.prepared.read(batch.rows, blocks, kept)
        return self._map(batch.rows, batch.counts, blocks, kept)

    def _map(
        self,
        rows: Sequence[int],
        counts: Sequence[int],
        blocks: Sequence[int],
        kept: Tensor,
    ) -> Tensor:
        stand_ins = [self.other[row] for row in rows] if self.other else rows
        read = self.reader.read(stand_ins, counts)
        # cut to what is kept before anything is computed, and computed in single precision
        origin = {b: tensor.to(kept.device)[kept].float() for b, tensor in read.items()}
        with torch.no_grad():
            return torch.stack([self.states.states(block, origin) for block in blocks])

    def _prepare(self, data: TransferData, device: torch.device) -> RowValues | None:
        """Map the states of all rows of the run, or return None where they do not fit."""
        rows, blocks = sorted(data.rows), self.states.blocks
        index = RowIndex.of(data.probe.encoded("train"))
        counts = {row: index.counts[row] for row in rows}
        total, position = sum(counts.values()), 0
        values: Tensor | None = None
        for start in range(0, len(rows), data.probe.settings.batch_size):
            some = rows[start : start + data.probe.settings.batch_size]
            lengths = [counts[row] for row in some]
            mapped = self._map(some, lengths, blocks, torch.arange(sum(lengths), device=device))
            if values is None:
                shape = (len(blocks), total, mapped.shape[2])
                size = math.prod(shape) * mapped.element_size()
                if size > data.probe.settings.max_bytes:
                    return None
                values = mapped.new_empty(shape, device=_place(device, size))
            values[:, position : position + sum(lengths)] = mapped
            position += sum(lengths)
        return None if values is None else RowValues(counts, values, blocks)


def _place(device: torch.device, size: int) -> torch.device:
    """Return where prepared states are kept: beside the target if they leave it room enough."""
    if device.type == "cuda" and size > FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device

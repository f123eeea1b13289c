"""The aligned states a target is steered towards, ready to compare, by training row."""

from __future__ import annotations

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


@attrs.define(eq=False)
class RowValues:
    """Flat values `[tokens, …]` of chosen rows, found by row.

    Arguments:
        counts: positions per chosen row.
        values: by name, row after row.
    """

    counts: Mapping[int, int]
    values: Mapping[int, Tensor]
    _positions: dict[int, Tensor] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        starts, position = {}, 0
        for row, count in self.counts.items():
            starts[row] = torch.arange(position, position + count)
            position += count
        self._positions = starts

    def read(self, rows: Sequence[int], names: Sequence[int], kept: Tensor) -> dict[int, Tensor]:
        """Return the kept positions of `rows` by name; `kept` indexes their concatenation."""
        positions = torch.cat([self._positions[row] for row in rows])
        positions = positions.to(kept.device)[kept]
        return {
            name: self.values[name].index_select(0, positions.to(self.values[name].device))
            for name in names
        }


@attrs.define(eq=False)
class Wanted:
    """Aligned states by training row.

    A map is a fixed function of the origin's states, so where the mapped states of all rows fit
    and no row would be prepared in vain, they are mapped once and only looked up while the
    target trains. Otherwise each micro-batch is read and mapped when it is needed.

    Arguments:
        states: the maps.
        reader: reads the origin's states by row.
        other: for the shuffled placebo, which row stands in for each row; else empty.
        prepared: the mapped states, where they were mapped beforehand.
    """

    states: TargetStates
    reader: StateReader
    other: Sequence[int] = ()
    prepared: RowValues | None = None

    @classmethod
    def open(cls, states: TargetStates, data: TransferData, device: torch.device) -> Wanted:
        """Open the reading, and map what fits; call it before the target changes."""
        reader = data.probe.states(
            "train", states.origin_blocks, interface=states.interface, origin=states.origin
        )
        rows = len(data.probe.encoded("train").items)
        other = item_permutation(rows, data.seed) if states.shuffle_items else ()
        wanted = cls(states, reader, other)
        if len(data.rows) <= data.budget.steps * data.budget.batch_size:
            wanted.prepared = wanted._prepare(data, device)
        return wanted

    def read(self, batch: Batch, blocks: Sequence[int], kept: Tensor) -> dict[int, Tensor]:
        """Return aligned states `[kept, D]` in fp32 by target block, on the device of `kept`.

        Arguments:
            batch: the micro-batch.
            blocks: target blocks.
            kept: `[kept]` int64, which of the batch's predicting positions.
        """
        if self.prepared is not None:
            found = self.prepared.read(batch.rows, blocks, kept)
            return {block: tensor.to(kept.device) for block, tensor in found.items()}
        return self._map(batch.rows, batch.counts, blocks, kept.device, kept)

    def stand_ins(self, rows: Sequence[int]) -> Sequence[int]:
        """Return the rows whose states are read for `rows`: themselves, or others."""
        return [self.other[row] for row in rows] if self.other else rows

    def _map(
        self,
        rows: Sequence[int],
        counts: Sequence[int],
        blocks: Sequence[int],
        device: torch.device,
        kept: Tensor | None = None,
    ) -> dict[int, Tensor]:
        read = self.reader.read(self.stand_ins(rows), counts)
        origin = {block: tensor.to(device) for block, tensor in read.items()}
        if kept is not None:
            origin = {block: tensor[kept] for block, tensor in origin.items()}
        origin = {block: tensor.float() for block, tensor in origin.items()}
        with torch.no_grad():
            return {block: self.states.states(block, origin) for block in blocks}

    def _prepare(self, data: TransferData, device: torch.device) -> RowValues | None:
        """Map the states of all rows of the run, or return None where they do not fit."""
        rows, blocks = sorted(data.rows), self.states.blocks
        index = RowIndex.of(data.probe.encoded("train"))
        counts = {row: index.counts[row] for row in rows}
        parts: dict[int, list[Tensor]] = {block: [] for block in blocks}
        place, limit = device, data.probe.settings.max_bytes
        for start in range(0, len(rows), data.probe.settings.batch_size):
            some = rows[start : start + data.probe.settings.batch_size]
            mapped = self._map(some, [counts[row] for row in some], blocks, device)
            if start == 0:
                size = _total_bytes(mapped) * sum(counts.values()) / sum(counts[r] for r in some)
                if size > limit:
                    return None
                place = _place(device, size)
            for block in blocks:
                parts[block].append(mapped[block].to(place))
        return RowValues(counts, {block: torch.cat(parts[block]) for block in blocks})


def _total_bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _place(device: torch.device, size: float) -> torch.device:
    """Return where prepared states are kept: beside the target if they leave it room enough."""
    if device.type == "cuda" and size > FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device

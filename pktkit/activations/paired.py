"""States of source and target at the same tokens, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.errors import PairIncompatibleError
from pktkit.probe.readers import RowIndex
from pktkit.state_maps import identity
from pktkit.values import Interface, LayerMap, Origin, TargetStates

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.probe import Probe

CHUNK_TOKENS = 512
"""Tokens per chunk: enough for matrix products to be efficient, few enough for the states of all
blocks to be in memory at once."""

States = dict[int, "Tensor"]


@attrs.frozen(eq=False)
class PairedStates:
    """States of both models at the same tokens of a split.

    Arguments:
        probe: reads the states.
        split: split of the task.
        interface: where states are read, the same on both sides.
        kept: bool `[tokens]` over the split's predicting positions; None keeps all of them.
    """

    probe: Probe
    split: str
    interface: Interface
    kept: Tensor | None = None

    @property
    def tokens(self) -> int:
        """How many tokens there are."""
        if self.kept is not None:
            return int(self.kept.sum())
        return sum(item.supervised_count for item in self.probe.encoded(self.split).items)

    def chunks(
        self,
        layer_map: LayerMap,
        *,
        rows: Sequence[int] | None = None,
        others: Mapping[int, int] | None = None,
    ) -> Iterator[tuple[States, States]]:
        """Yield source and target states by target block, at least `CHUNK_TOKENS` where there are.

        Arguments:
            layer_map: which blocks; several source blocks are mixed as the link says.
            rows: rows of the split; None for all.
            others: by row, the row whose source states stand in for its own.

        Returns:
            Pairs of `{target block: [tokens, D_src]}` and `{target block: [tokens, D_tgt]}`.

        Raises:
            PairIncompatibleError: the tokenizers differ, or the models give different numbers
                of states.
        """
        waiting: list[tuple[States, States]] = []
        tokens = 0
        for ours, theirs in self._batches(layer_map, rows, others):
            waiting.append((ours, theirs))
            tokens += _count(ours, theirs)
            if tokens >= CHUNK_TOKENS:
                yield _joined(waiting)
                waiting, tokens = [], 0
        if tokens:
            yield _joined(waiting)

    def _batches(
        self, layer_map: LayerMap, rows: Sequence[int] | None, others: Mapping[int, int] | None
    ) -> Iterator[tuple[States, States]]:
        mixing = TargetStates(
            {link.target: identity for link in layer_map.links}, layer_map, self.interface
        )
        source = self.probe.states(self.split, mixing.origin_blocks, interface=self.interface)
        target = self.probe.states(
            self.split, mixing.blocks, interface=self.interface, origin=Origin.TARGET
        )
        index = RowIndex.of(self.probe.encoded(self.split))
        for batch in _row_batches(index.counts, rows, self.probe.settings.batch_size):
            theirs = target.read(batch)
            if others is None:
                read = source.read(batch)
            else:
                read = source.read(
                    [others[row] for row in batch], [index.counts[row] for row in batch]
                )
            kept = None if self.kept is None else self.kept[index.positions(batch)]
            yield (
                {block: _where(mixing.states(block, read), kept) for block in mixing.blocks},
                {block: _where(theirs[block], kept) for block in mixing.blocks},
            )


def _row_batches(
    counts: Sequence[int], rows: Sequence[int] | None, batch_size: int
) -> Iterator[list[int]]:
    """Yield rows until they have `CHUNK_TOKENS` tokens, or there are `batch_size` of them."""
    batch: list[int] = []
    for row in range(len(counts)) if rows is None else rows:
        batch.append(row)
        if len(batch) == batch_size or sum(counts[r] for r in batch) >= CHUNK_TOKENS:
            yield batch
            batch = []
    if batch:
        yield batch


def _where(states: Tensor, kept: Tensor | None) -> Tensor:
    return states if kept is None else states[kept.to(states.device)]


def _count(ours: States, theirs: States) -> int:
    counts = {states.shape[0] for side in (ours, theirs) for states in side.values()}
    if len(counts) != 1:
        raise PairIncompatibleError(
            f"source and target give {sorted(counts)} states for the same rows; states can only be "
            "paired token by token."
        )
    return counts.pop()


def _joined(parts: Sequence[tuple[States, States]]) -> tuple[States, States]:
    if len(parts) == 1:
        return parts[0]
    first, second = parts[0]
    return (
        {block: torch.cat([ours[block] for ours, _ in parts]) for block in first},
        {block: torch.cat([theirs[block] for _, theirs in parts]) for block in second},
    )

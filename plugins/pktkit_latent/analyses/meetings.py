"""The target's states beside mapped source states, of the same item and of another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.activations.similarity import mean_cosines
from pktkit.errors import UsageError
from pktkit.values import Interface, Origin, TargetStates
from pktkit_latent.analyses.common import answer_positions
from pktkit_latent.wanted import item_permutation

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.analysis import AnalysisContext
    from pktkit.probe import StateReader

SAME, SHUFFLED = "cosine", "shuffled"
"""Whose source states the target's meet: those of the same item, or of another."""

Met = tuple[str, int, str]
"""Label of a map, target block, `SAME` or `SHUFFLED`."""


@attrs.frozen(eq=False)
class Meetings:
    """Readings of both models on a split, and the maps that bring them together.

    Arguments:
        context: pair, probe and split.
        maps: by label, the mapped states; all at one interface.
        own: reads the target's states.
        origins: reads the states that are mapped.
        others: for each row, the row whose source states it meets in the control.
        answers_only: leave the end-of-sequence position out.
    """

    context: AnalysisContext
    maps: Mapping[str, TargetStates]
    own: StateReader
    origins: Mapping[Origin, StateReader]
    others: Sequence[int]
    answers_only: bool

    @classmethod
    def of(
        cls,
        context: AnalysisContext,
        maps: Mapping[str, TargetStates],
        interface: Interface,
        *,
        answers_only: bool,
        seed: int,
    ) -> Meetings:
        """Open the readings of every block that some map reads or writes.

        Arguments:
            seed: of the permutation of items.

        Raises:
            UsageError: the split has fewer than two items.
        """
        items = len(context.probe.encoded(context.split).items)
        if items < 2:
            raise UsageError(
                f"split '{context.split}' has one item; the shuffled control needs at least two."
            )

        def reader(origin: Origin, blocks: set[int]) -> StateReader:
            return context.probe.states(
                context.split, sorted(blocks), interface=interface, origin=origin
            )

        read: dict[Origin, set[int]] = {}
        for states in maps.values():
            read.setdefault(states.origin, set()).update(states.origin_blocks)
        return cls(
            context,
            maps,
            own=reader(Origin.TARGET, {b for states in maps.values() for b in states.blocks}),
            origins={origin: reader(origin, blocks) for origin, blocks in read.items()},
            others=item_permutation(items, seed),
            answers_only=answers_only,
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Target blocks that some map reaches, ascending."""
        return tuple(sorted({block for states in self.maps.values() for block in states.blocks}))

    @property
    def tokens(self) -> int:
        """How many positions are looked at."""
        return sum(int(self._kept(rows).sum()) for rows in self.context.batches())

    @property
    def exact_share(self) -> float:
        """Share of positions that are read after exactly the same text in both models."""
        return min(reader.exact_share for reader in self.origins.values())

    def cosines(self) -> Mapping[Met, float]:
        """Return the mean centred cosine of every map at every block, and of its control."""
        return mean_cosines(self._batches)

    def _batches(self) -> Iterator[dict[Met, tuple[Tensor, Tensor]]]:
        """Yield the target's states and the mapped ones, `[tokens, D]` in fp64."""
        for rows in self.context.batches():
            kept = self._kept(rows)
            own = _precise(self.own.read(rows), kept)
            met: dict[Met, tuple[Tensor, Tensor]] = {}
            for pairing, read in ((SAME, rows), (SHUFFLED, [self.others[r] for r in rows])):
                for label, block, mapped in self._mapped(rows, read, kept):
                    met[label, block, pairing] = own[block], mapped.to(own[block].device)
            yield met

    def _mapped(
        self, rows: Sequence[int], read: Sequence[int], kept: Tensor
    ) -> Iterator[tuple[str, int, Tensor]]:
        """Map the states of the rows `read`, cut or repeated to the lengths of `rows`."""
        split = self.context.probe.encoded(self.context.split)
        lengths = [split.items[row].supervised_count for row in rows]
        origins = {
            origin: _precise(reader.read(read, lengths), kept)
            for origin, reader in self.origins.items()
        }
        for label, states in self.maps.items():
            for block in states.blocks:
                yield label, block, states.states(block, origins[states.origin])

    def _kept(self, rows: Sequence[int]) -> Tensor:
        """Return which predicting positions of the rows are looked at, `[tokens]` bool."""
        split = self.context.probe.encoded(self.context.split)
        if self.answers_only:
            return answer_positions(split, rows)
        return torch.ones(sum(split.items[row].supervised_count for row in rows), dtype=torch.bool)


def _precise(states: Mapping[int, Tensor], kept: Tensor) -> dict[int, Tensor]:
    return {block: s[kept.to(s.device)].double() for block, s in states.items()}

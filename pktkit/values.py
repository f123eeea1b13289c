"""The frozen values that travel between stages."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.converters import as_tuple
from pktkit.errors import UsageError
from pktkit.tracing import at_block

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.state_maps import Readout
    from pktkit.updates import DenseUpdate, LowRankUpdate, SparseUpdate, SparseUpdates


class Interface(enum.StrEnum):
    """Where in a block a state is read.

    RESIDUAL: the residual stream after the block (its output).
    CONTRIBUTION: the block's output before residual addition, i.e. output minus input.
    """

    RESIDUAL = "residual"
    CONTRIBUTION = "contribution"


class Origin(enum.StrEnum):
    """Which model's states an alignment maps."""

    SOURCE = "source"
    TARGET = "target"


class Space(enum.StrEnum):
    """Where mapped states live: in the target's space, or still in their origin's."""

    TARGET = "target"
    ORIGIN = "origin"


@attrs.frozen
class LayerLink:
    """One target block and the source blocks it receives from.

    Arguments:
        target: block index in the target, 0-based.
        sources: block indices in the source, 0-based.
        weights: one weight per source block; they sum to 1.
    """

    target: int
    sources: tuple[int, ...] = attrs.field(converter=as_tuple)
    weights: tuple[float, ...] = attrs.field(converter=as_tuple)

    @weights.default
    def _equal_weights(self) -> tuple[float, ...]:
        return tuple(1.0 / len(self.sources) for _ in self.sources)

    def __attrs_post_init__(self) -> None:
        if not self.sources or len(self.sources) != len(self.weights):
            raise UsageError(
                f"layer link of target block {self.target}: {len(self.sources)} source blocks "
                f"but {len(self.weights)} weights."
            )

    @property
    def main(self) -> int:
        """The source block with the largest weight, the first of equals."""
        return self.sources[self.weights.index(max(self.weights))]


@attrs.frozen
class LayerMap:
    """Which source blocks each target block is paired with.

    Arguments:
        links: one link per target block that receives anything, by ascending target block.
        source_blocks, target_blocks: depths of the two models.
        method: name of the matcher that made it.
        scores: the matcher's score per source block, if it has one (attribution, sensitivity).
        note: what a reader should know, e.g. a fallback that was taken.
        diagnostics: figures for the report, JSON-serialisable.
    """

    links: tuple[LayerLink, ...] = attrs.field(converter=as_tuple)
    source_blocks: int
    target_blocks: int
    method: str
    scores: tuple[float, ...] = attrs.field(default=(), converter=as_tuple)
    note: str = ""
    diagnostics: Mapping[str, Any] = attrs.field(factory=dict, hash=False)

    def __attrs_post_init__(self) -> None:
        targets = [link.target for link in self.links]
        if targets != sorted(set(targets)):
            raise UsageError(f"layer map: target blocks {targets} must be ascending and unique.")
        for link in self.links:
            if not 0 <= link.target < self.target_blocks:
                raise UsageError(
                    f"layer map: target block {link.target} is outside 0..{self.target_blocks - 1}."
                )
            for source in link.sources:
                if not 0 <= source < self.source_blocks:
                    raise UsageError(
                        f"layer map: source block {source} is outside 0..{self.source_blocks - 1}."
                    )

    def link(self, target: int) -> LayerLink:
        """Return the link of a target block.

        Raises:
            UsageError: the map does not link this block.
        """
        for link in self.links:
            if link.target == target:
                return link
        raise UsageError(f"layer map '{self.method}' does not link target block {target}.")

    @property
    def used_source_blocks(self) -> tuple[int, ...]:
        """Source blocks that some link reads, ascending."""
        return tuple(sorted({source for link in self.links for source in link.sources}))

    def __str__(self) -> str:
        parts = [f"{'+'.join(map(str, link.sources))}→{link.target}" for link in self.links]
        return f"{self.method}: {' '.join(parts)}"

    @property
    def described(self) -> str:
        """The links with both depths, as in `depth: 1→0 3→1 5→2 (6→3 blocks)`."""
        return f"{self} ({self.source_blocks}→{self.target_blocks} blocks)"


StateMap = Callable[["Tensor"], "Tensor"]
"""Maps states `[tokens, D_from]` to `[tokens, D_to]`, keeping dtype and device."""


@attrs.frozen
class TargetStates:
    """The source's states as an injector compares the target's with them.

    They live in the target's space, or stay in their origin's: then either a learned readout
    brings the target's states there (`readouts`), or only relations between tokens can be
    compared, and an injector refuses any other layer term.

    Arguments:
        maps: for each target block, the map from the origin's width to that of `space`.
        layer_map: which source blocks are read for a target block, with weights.
        interface: where states are read, the same on both sides.
        origin: whose states are mapped: the source's, or the frozen target's own.
        shuffle_items: read the states of another item at every position (a placebo).
        space: where the maps lead.
        readouts: by target block, a learned linear layer that the target's state passes before
            it is compared in the origin's space.
    """

    maps: Mapping[int, StateMap]
    layer_map: LayerMap
    interface: Interface
    origin: Origin = Origin.SOURCE
    shuffle_items: bool = False
    space: Space = Space.TARGET
    readouts: Mapping[int, Readout] = attrs.field(factory=dict)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Target blocks that have a map, ascending."""
        return tuple(sorted(self.maps))

    @property
    def comparable(self) -> bool:
        """Whether states can be compared one by one, and not only by relations among them."""
        return self.space is Space.TARGET or set(self.blocks) <= set(self.readouts)

    @property
    def origin_blocks(self) -> tuple[int, ...]:
        """Blocks of the origin model whose states are read, ascending."""
        if self.origin is Origin.TARGET:
            return self.blocks
        return tuple(
            sorted({s for block in self.blocks for s in self.layer_map.link(block).sources})
        )

    def states(self, block: int, origin_states: Mapping[int, Tensor]) -> Tensor:
        """Mix and map states of the origin for a target block.

        Arguments:
            block: target block.
            origin_states: states `[tokens, D_origin]` by block of the origin.

        Returns:
            `[tokens, D]`, in the width of `space`; dtype and device of the input.
        """
        if self.origin is Origin.TARGET:
            with at_block(block):
                return self.maps[block](origin_states[block])
        link = self.layer_map.link(block)
        mixed = origin_states[link.sources[0]] * link.weights[0]
        for source, weight in zip(link.sources[1:], link.weights[1:], strict=True):
            mixed = mixed + origin_states[source] * weight
        with at_block(block, link.sources):
            return self.maps[block](mixed)


@attrs.frozen(eq=False)
class Alignment:
    """Source knowledge expressed in target space.

    Arguments:
        method: name of the aligner.
        layer_map: the map it was made for.
        target_states: for activation-based methods.
        low_rank, dense, sparse: for parameter-reuse methods.
        sparse_at: gives sparse updates for one encoded item, while both models are as they were
            when the alignment was made.
        diagnostics: figures for the report, JSON-serialisable.
    """

    method: str
    layer_map: LayerMap
    target_states: TargetStates | None = None
    low_rank: tuple[LowRankUpdate, ...] = attrs.field(default=(), converter=as_tuple)
    dense: tuple[DenseUpdate, ...] = attrs.field(default=(), converter=as_tuple)
    sparse: tuple[SparseUpdate, ...] = attrs.field(default=(), converter=as_tuple)
    sparse_at: SparseUpdates | None = None
    diagnostics: Mapping[str, Any] = attrs.field(factory=dict)


@attrs.frozen
class Injection:
    """What an injector did to the target.

    Arguments:
        method: name of the injector.
        steps: optimiser steps taken.
        tokens: tokens the target read while training, padding not counted.
        trainable_parameters: how many numbers could change.
        losses: mean loss terms over the run's tenths, by term.
        diagnostics: further figures, JSON-serialisable.
    """

    method: str
    steps: int = 0
    tokens: int = 0
    trainable_parameters: int = 0
    losses: Mapping[str, Sequence[float]] = attrs.field(factory=dict)
    diagnostics: Mapping[str, Any] = attrs.field(factory=dict)

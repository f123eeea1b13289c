"""When each term of a steering loss counts, and which blocks it looks at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs

from pktkit.converters import as_tuple

SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: 0.5 * (1 + math.cos(math.pi * share)),
}
"""Decay of the layer weight from 1, by the share of its time that is over."""

_ROUNDING = 1e-9
"""Shares are quotients of step numbers; a stage that begins at one must not begin a step late."""


@attrs.frozen
class LayerSchedule:
    """The weight of the layer term over a run.

    Arguments:
        weight: at the start.
        shape: how it decays, one of `SHAPES`.
        until: share of the run after which the layer term is off; the decay ends there.
    """

    weight: float
    shape: str = "constant"
    until: float = 1.0

    def at(self, share: float) -> float:
        """Return the weight at a share of the run, 0 to 1."""
        if share >= self.until - _ROUNDING and self.until < 1:
            return 0.0
        return self.weight * SHAPES[self.shape](min(1.0, share / self.until))


class Focus(Protocol):
    """Which blocks are steered at a point of the run, and whether the output counts there."""

    @property
    def blocks(self) -> Sequence[int]:
        """All blocks that are steered at some point, ascending."""

    def at(self, share: float) -> Sequence[int]:
        """Return the blocks steered at a share of the run."""

    def within(self, share: float) -> float:
        """Return the share of those blocks' time that is over."""

    def output_counts(self, share: float) -> bool:
        """Return whether the output term is part of the loss."""


@attrs.frozen
class Together:
    """All blocks at all times."""

    blocks: tuple[int, ...] = attrs.field(converter=as_tuple)

    def at(self, share: float) -> Sequence[int]:
        """Return all blocks."""
        return self.blocks

    def within(self, share: float) -> float:
        """Return the share itself: the blocks' time is the run."""
        return share

    def output_counts(self, share: float) -> bool:
        """Return that it always does."""
        return True


@attrs.frozen
class Frontier:
    """One block after another, shallow to deep, each for an equal part of the run.

    Arguments:
        blocks: ascending.
        output_last: count the output term in the last stage only, not in every stage.
    """

    blocks: tuple[int, ...] = attrs.field(converter=as_tuple)
    output_last: bool = False

    def stage(self, share: float) -> int:
        """Return the 0-based stage at a share of the run."""
        return min(int(share * len(self.blocks) + _ROUNDING), len(self.blocks) - 1)

    def at(self, share: float) -> Sequence[int]:
        """Return the one block at the frontier."""
        return (self.blocks[self.stage(share)],)

    def within(self, share: float) -> float:
        """Return the share of the present stage that is over."""
        return min(1.0, max(0.0, share * len(self.blocks) - self.stage(share)))

    def output_counts(self, share: float) -> bool:
        """Return whether this stage has an output term."""
        return not self.output_last or self.stage(share) == len(self.blocks) - 1

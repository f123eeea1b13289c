"""Affine maps between the residual streams of two models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


@attrs.frozen(eq=False)
class AffineMap:
    """Maps states by `M (h − c) + o`, or by `M h / ‖h‖` where `normalise` is set.

    Aligners whose maps have this type can be reused outside steering: their matrix can be read,
    stored and inverted.

    Arguments:
        matrix: `M`, fp64 `[D_to, D_from]`.
        centre: `c`, `[D_from]`, taken off first; None for zero.
        offset: `o`, `[D_to]`, added last; None for zero.
        normalise: divide each (centred) state by its length first; a zero state maps to the
            offset.
    """

    matrix: Tensor
    centre: Tensor | None = None
    offset: Tensor | None = None
    normalise: bool = False
    _cast: dict[tuple[torch.dtype, torch.device], tuple[Tensor | None, ...]] = attrs.field(
        factory=dict, init=False, repr=False
    )

    def __call__(self, states: Tensor) -> Tensor:
        """Map `[tokens, D_from]` to `[tokens, D_to]`, keeping dtype and device.

        Computed in the precision of the states, at least single.
        """
        precise = states if states.dtype == torch.float64 else states.float()
        matrix, centre, offset = self._in(precise)
        if centre is not None:
            precise = precise - centre
        if self.normalise:
            precise = unit_length(precise)
        assert matrix is not None
        mapped = precise @ matrix.T
        if offset is not None:
            mapped = mapped + offset
        return mapped.to(states.dtype)

    def _in(self, like: Tensor) -> tuple[Tensor | None, ...]:
        """Return matrix, centre and offset in the dtype and on the device of `like`, kept."""
        key = (like.dtype, like.device)
        if key not in self._cast:
            self._cast[key] = tuple(
                None if part is None else part.to(like)
                for part in (self.matrix, self.centre, self.offset)
            )
        return self._cast[key]


@attrs.frozen
class Readout:
    """A linear readout of a target's states that is learned while the target trains.

    Arguments:
        width_in: `D_tgt`.
        width_out: width of the states it is compared with.
    """

    width_in: int
    width_out: int

    def build(self, *, seed: int, device: torch.device | str = "cpu") -> nn.Linear:
        """Return a fresh fp32 linear layer whose start depends on `seed` alone."""
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = nn.Linear(self.width_in, self.width_out)
        return layer.to(device)


def identity(states: Tensor) -> Tensor:
    """Return the states as they are: the map of a space to itself."""
    return states


def unit_length(rows: Tensor) -> Tensor:
    """Scale rows to length one without overflow for tiny or huge rows; zero rows stay zero."""
    largest = rows.abs().amax(dim=-1, keepdim=True)
    scaled = rows / torch.where(largest > 0, largest, torch.ones_like(largest))
    norms = scaled.norm(dim=-1, keepdim=True)
    return scaled / torch.where(norms > 0, norms, torch.ones_like(norms))

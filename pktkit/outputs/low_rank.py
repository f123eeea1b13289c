"""The change of one matrix as a product of two thin ones, as exactly as its precision allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.training.loop import seeded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DENSE = 1024
"""Matrices with a side up to this are decomposed whole; larger ones in growing parts."""

MOST_ROUNDING = 0.01
"""Rounding may be this part of a change's energy; beyond, it would pass for the change itself."""

_FIRST = 64
_OVER = 16


@attrs.frozen(eq=False)
class Factors:
    """`B A`, which stands for the change of a matrix in `[out, in]` orientation.

    Arguments:
        b: `[out, rank]`, fp32; a: `[rank, in]`, fp32.
        lost: squared Frobenius norm of what the product leaves out.
        total: squared Frobenius norm of the change.
        exact: nothing is left out but the rounding of the changed matrix itself.
    """

    b: Tensor
    a: Tensor
    lost: float
    total: float
    exact: bool

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.a.shape[0])


def factorise(before: Tensor, after: Tensor, *, limit: int) -> Factors:
    """Write `after - before` as a product of least rank, at most `limit`.

    Storing a matrix in its precision moves every entry by up to half a unit in the last place, and
    some methods store it twice, which makes any change full rank. The product is therefore called
    exact, and needs no more rank, once what it leaves out is not larger than that rounding, and a
    small part of the change.

    Arguments:
        before, after: `[out, in]`, in the dtype that the model is stored in.
        limit: largest rank.
    """
    import torch

    old, new = before.double(), after.double()
    change = new - old
    total = float(change.square().sum())
    allowed = float(rounding(old, new, after.dtype).square().sum())
    allowed = min(allowed, MOST_ROUNDING * total)
    most = min(limit, *change.shape)
    u, s, vh = _decomposed(change, most, allowed)
    energies = torch.cat([s.square(), s.new_zeros(1)]).flip(0).cumsum(0).flip(0)
    # what lies outside the decomposed part is lost whatever the rank
    outside = max(0.0, total - float(energies[0]))
    lost = (energies + outside).tolist()
    rank = next((r for r in range(len(s)) if lost[r] <= allowed), len(s))
    rank = min(rank, most)
    root = s[:rank].sqrt()
    return Factors(
        b=(u[:, :rank] * root).float(),
        a=(root[:, None] * vh[:rank]).float(),
        lost=lost[rank],
        total=total,
        exact=lost[rank] <= allowed or rank == min(change.shape),
    )


def rounding(old: Tensor, new: Tensor, dtype: torch.dtype) -> Tensor:
    """Return how far rounding twice may have moved each entry: a unit in the last place.

    Arguments:
        old, new: fp64, values of a matrix in `dtype`.
    """
    import torch

    typical = (new - old).square().mean().sqrt()
    largest = torch.maximum(torch.maximum(old.abs(), new.abs()), typical)
    _, exponent = torch.frexp(largest)
    unit = torch.full_like(largest, torch.finfo(dtype).eps / 2)
    return torch.ldexp(unit, exponent)


def _decomposed(change: Tensor, most: int, allowed: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values, at least as many as are needed."""
    import torch

    total = float(change.square().sum())
    smaller = min(change.shape)
    size = min(most, _FIRST)
    while smaller > DENSE and size + _OVER < smaller // 2:
        with seeded(0):
            u, s, v = torch.svd_lowrank(change, q=size + _OVER, niter=6)
        u, s, v = u[:, :size], s[:size], v[:, :size]
        if size == most or total - float(s.square().sum()) <= allowed:
            return u, s, v.T
        size = min(most, 2 * size)
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    return u[:, :most], s[:most], vh[:most]

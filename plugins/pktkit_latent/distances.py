"""How far a target's block states are from the aligned states.

Each takes states `[blocks, tokens, D]` and wanted states `[blocks, tokens, E]` and returns the
mean over blocks, all of them at once because a step has many small ones; one block may come
without its dimension. Wanted states carry no gradient. All compute in fp32. Distances that compare
state by state need equal widths and take a weight per token; those on relations among the tokens
need neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional

from pktkit.state_maps import unit_length

if TYPE_CHECKING:
    from torch import Tensor


class Distance(Protocol):
    """Distance of states and wanted states over the tokens of one micro-batch."""

    def __call__(self, states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return a scalar; `weights` `[tokens]` multiply each token's share of the mean."""


def cosine_distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return `1 − mean cos`, over tokens, in fp32. Zero states count as cos 0."""
    cosines = functional.cosine_similarity(states.float(), wanted.float(), dim=-1)
    return 1 - cosines.mean() if weights is None else ((1 - cosines) * weights).mean()


def centred_cosine_distance(
    states: Tensor, wanted: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Return `1 − mean cos` after subtracting each side's mean over the batch's tokens.

    Without centring the cosine mostly measures the mean direction, which all tokens share.
    """
    return cosine_distance(_centred(states), _centred(wanted), weights)


def mse_distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of centred states scaled to unit variance.

    Centre and scale (one number per side) are those of the batch. Unlike cosines it counts a
    token by how far it lies from the mean. It lies between 0 and 4; unrelated states give 2.
    """
    errors = (_standardised(states) - _standardised(wanted)).square().mean(dim=-1)
    return errors.mean() if weights is None else (errors * weights).mean()


def relation_distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of the two token × token cosine matrices.

    Cosines are between centred states, so that the term sees how tokens lie to one another and
    not where (the geometry of arXiv 2510.24208 v2). Rotations and scale of either side do not
    matter. Zero states have cosine 0 with everything.
    """
    ours, theirs = unit_length(_centred(states)), unit_length(_centred(wanted))
    tokens = ours.shape[-2]
    if tokens <= max(ours.shape[-1], theirs.shape[-1]):
        return (ours @ ours.mT - theirs @ theirs.mT).square().mean()
    # the same number through matrices of the widths' size, which many tokens leave smaller
    squared = _overlap(ours, ours) + _overlap(theirs, theirs) - 2 * _overlap(ours, theirs)
    return (squared / tokens**2).mean()


def cka_distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return `1 − linear CKA` of centred states (Kornblith et al., arXiv 1905.00414).

    Rotations and scale of either side do not matter. A side whose states are all equal gives 1.
    The estimate is biased upwards where tokens are few compared with the widths.
    """
    ours, theirs = _scaled(_centred(states)), _scaled(_centred(wanted))
    norm = (_overlap(ours, ours) * _overlap(theirs, theirs)).clamp(min=1e-30).sqrt()
    return 1 - (_overlap(ours, theirs) / norm).mean()


def _centred(states: Tensor) -> Tensor:
    precise = states.float()
    return precise - precise.mean(dim=-2, keepdim=True)


def _standardised(states: Tensor) -> Tensor:
    """Return centred states over the root of their mean square; constant states give zeros."""
    centred = _centred(states)
    entries = centred.shape[-2] * centred.shape[-1]
    scale = torch.linalg.vector_norm(centred, dim=(-2, -1), keepdim=True) / entries**0.5
    return centred / torch.where(scale > 0, scale, torch.ones_like(scale))


def _scaled(states: Tensor) -> Tensor:
    """Divide by the largest entry, so that fourth powers neither overflow nor vanish.

    The divisor is a constant to the gradient, which is exact where the scale does not matter.
    """
    largest = states.detach().abs().amax(dim=(-2, -1), keepdim=True)
    return states / torch.where(largest > 0, largest, torch.ones_like(largest))


def _overlap(left: Tensor, right: Tensor) -> Tensor:
    """Return `‖LᵀR‖²` per block, the inner product of `LLᵀ` and `RRᵀ`, by the smaller matrices."""
    if left.shape[-2] <= max(left.shape[-1], right.shape[-1]):
        return ((left @ left.mT) * (right @ right.mT)).sum(dim=(-2, -1))
    return (left.mT @ right).square().sum(dim=(-2, -1))

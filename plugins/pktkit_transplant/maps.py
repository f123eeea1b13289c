"""Residual bases of two models at a point of their streams, and the way back from one to the other.

A fitted map gives target states from source states, `x_t = M (x_s − c) + o`. Matrices that write
to the stream need `M`; matrices that read it need the way back as one linear map, because a
projection without a bias has no place for a constant:

    x_s ≈ R x_t,   R = M⁺ + (c − M⁺ o) uᵀ,   u = argmin E (1 − uᵀ x_t)²

`M⁺` is a ridge inverse. `u` reads a constant off the stream by least squares; without centre and
offset the second term is absent. All of it is computed in fp64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.errors import NonFiniteError, StrategyError, UsageError
from pktkit.state_maps import AffineMap
from pktkit.values import Interface, Origin, Space

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.values import Alignment

TINY = 1e-12
"""Singular values below this share of the largest count as zero."""


@attrs.frozen(eq=False)
class Change:
    """The change of basis around one target block.

    Arguments:
        read: fp64 `[D_src, D_tgt]`, what takes the target's normalised input state to the
            source's, the ratio of their lengths included.
        write: fp64 `[D_tgt, D_src]`, what takes a source's contribution to the target's.
        ratio: length of a mapped input state over that of the source's, as the models' norms
            measure it.
    """

    read: Tensor
    write: Tensor
    ratio: float


def residual_maps(alignment: Alignment) -> Mapping[int, AffineMap]:
    """Return an alignment's maps by target block; block −1 is the stream before the first one.

    Raises:
        StrategyError: the alignment has no target states, or other maps than affine ones.
        UsageError: the maps are not of the source's residual stream into the target's.
        NonFiniteError: a map holds NaN or infinity.
    """
    states, name = alignment.target_states, alignment.method
    if states is None or not states.maps:
        raise StrategyError(
            f"injector 'transplant' changes bases by maps between states, aligner '{name}' gave "
            "none. Use an aligner that fits them, e.g. 'ridge'."
        )
    if states.origin is not Origin.SOURCE or states.shuffle_items:
        raise UsageError(
            f"injector 'transplant' rewrites the source's parameters, but aligner '{name}' maps "
            f"{'states of other items' if states.shuffle_items else 'the target to itself'}, "
            "which says nothing about them. Use an aligner such as 'ridge'."
        )
    if states.interface is not Interface.RESIDUAL or states.space is not Space.TARGET:
        raise UsageError(
            "injector 'transplant' needs maps of the residual stream into the target's space; "
            f"aligner '{name}' maps the {states.interface} into the {states.space} space. "
            "Set --set aligner.interface=residual, or use another aligner."
        )
    return {block: _checked(block, found) for block, found in states.maps.items()}


def _checked(block: int, found: object) -> AffineMap:
    if not isinstance(found, AffineMap):
        kind = getattr(found, "__name__", type(found).__name__)
        raise StrategyError(
            f"injector 'transplant' needs affine maps, which it can invert; block {block} has "
            f"'{kind}'. Use an aligner whose maps are pktkit.state_maps.AffineMap, e.g. 'ridge'."
        )
    for part in (found.matrix, found.centre, found.offset):
        if part is not None and not bool(part.isfinite().all()):
            raise NonFiniteError(f"the state map of target block {block} is not finite.")
    return found


def ridge_inverse(matrix: Tensor, ridge: float) -> Tensor:
    """Return `M⁺ = Mᵀ (M Mᵀ + λ I)⁻¹`, fp64, in the shape of the transpose.

    Arguments:
        matrix: M, `[D_tgt, D_src]`, in either proportion.
        ridge: λ as a share of the mean squared singular value; 0 gives the pseudo-inverse.
    """
    u, values, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    damping = ridge * values.square().mean()
    kept = values > TINY * values.max()
    inverse = torch.where(kept, values / (values.square() + damping).clamp(min=1e-300), 0.0)
    return (vh.T * inverse) @ u.T


def linear_inverse(found: AffineMap, second_moment: Tensor, mean: Tensor, ridge: float) -> Tensor:
    """Return R, `[D_src, D_tgt]`, which leads back from mapped states.

    Arguments:
        found: the map; `normalise` is not looked at.
        second_moment: `E x_t x_tᵀ` of mapped states, fp64 `[D_tgt, D_tgt]`.
        mean: `E x_t`, fp64 `[D_tgt]`.
        ridge: see `ridge_inverse`; damps the reading of the constant too.
    """
    inverse = ridge_inverse(found.matrix, ridge)
    constant = inverse.new_zeros(inverse.shape[0])
    if found.centre is not None:
        constant = constant + found.centre.to(inverse)
    if found.offset is not None:
        constant = constant - inverse @ found.offset.to(inverse)
    if not bool(constant.any()):
        return inverse
    values, vectors = torch.linalg.eigh(second_moment)
    damped = values + ridge * values.mean()
    weights = torch.where(damped > TINY * damped.max(), 1 / damped.clamp(min=1e-300), 0.0)
    reader = vectors @ (weights * (vectors.T @ mean))
    return inverse + torch.outer(constant, reader)


def between_norms(matrix: Tensor, *, source_centres: bool, target_centres: bool) -> Tensor:
    """Account for norms that subtract the mean over channels (LayerNorm).

    A source whose norm does so computes with deviations from the mean: `P R`. Where the target's
    does too, means have no effect on either side, and `P R P + N R N`, with `N` taking the mean,
    is the choice among equivalent ones that leaves the identity as it is.

    Arguments:
        matrix: R, `[D_src, D_tgt]`.
        source_centres, target_centres: whether the models' norms subtract the mean.
    """
    if not source_centres:
        return matrix
    columns = matrix.mean(dim=0, keepdim=True)
    if not target_centres:
        return matrix - columns
    return matrix - columns - matrix.mean(dim=1, keepdim=True) + 2 * matrix.mean()

"""Vocabulary-defined maps between latent spaces, each as one `[D_tgt, D_src]` matrix.

The LM head `W` `[V, D]` defines a semantic basis: token i has the vector `s_i`, row i of the
transposed pseudo-inverse (arXiv 2510.24208, section on vocabulary-defined semantics). With
Gram matrix `G = WᵀW`, `s_i = G⁻¹ w_i`. Decomposing a state into token coefficients in one space
and recomposing it in the other is linear, so the V-sized coefficients never need to exist: all
maps below are sums over tokens that are accumulated in fp64 over chunks of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.errors import PairIncompatibleError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 8192
"""Vocabulary rows handled at a time."""

RANK_TOLERANCE = 1e-12
"""Eigenvalues of a Gram matrix below this share of the largest count as zero. It corresponds to
singular values of 1e-6 of the largest; the default of `torch.linalg.pinv` drops directions
thousands of times larger in single precision."""


@attrs.frozen(eq=False)
class Heads:
    """The two LM heads, row i of both meaning the same token.

    Arguments:
        source: `[V, D_src]`; target: `[V, D_tgt]`; any float dtype, same device.
    """

    source: Tensor
    target: Tensor

    def __attrs_post_init__(self) -> None:
        if self.source.shape[0] != self.target.shape[0]:
            raise PairIncompatibleError(
                f"the LM heads have {self.source.shape[0]} and {self.target.shape[0]} tokens; "
                "rows with the same index must mean the same token."
            )

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield matching fp64 slices of both heads."""
        for start in range(0, self.source.shape[0], CHUNK):
            stop = start + CHUNK
            yield self.source[start:stop].double(), self.target[start:stop].double()


def gram(rows: Iterator[Tensor], width: int) -> Tensor:
    """Return `Σ XᵀX` over fp64 chunks `[rows, width]`, as `[width, width]`."""
    total: Tensor | None = None
    for chunk in rows:
        product = chunk.T @ chunk
        total = product if total is None else total.add_(product)
    return torch.zeros(width, width, dtype=torch.float64) if total is None else total


def spectral(matrix: Tensor, power: float) -> Tensor:
    """Return a power of a symmetric positive semi-definite fp64 matrix on its range.

    Directions below `RANK_TOLERANCE` are left out, as a pseudo-inverse does.
    """
    values, vectors = torch.linalg.eigh(matrix)
    floor = values[-1].clamp(min=0) * RANK_TOLERANCE
    kept = values > floor
    powers = torch.where(kept, values.clamp(min=1e-300) ** power, torch.zeros_like(values))
    return (vectors * powers) @ vectors.T


def inverse(matrix: Tensor) -> Tensor:
    """Return the (pseudo-)inverse of a Gram matrix, by Cholesky where it is well conditioned."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    diagonal = factor.diagonal()
    if int(failed) == 0 and float((diagonal.min() / diagonal.max()) ** 2) > RANK_TOLERANCE * 1e3:
        return torch.cholesky_inverse(factor)
    return spectral(matrix, -1.0)


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length one; zero rows (padding tokens) stay zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=1e-300), torch.zeros_like(rows))


@attrs.frozen(eq=False)
class Bases:
    """Unit-normalised semantic bases of both models, summed over the vocabulary.

    Arguments:
        cross: `S_tgt S_srcᵀ` `[D_tgt, D_src]`.
        source: `S_src S_srcᵀ` `[D_src, D_src]`; target: `S_tgt S_tgtᵀ` `[D_tgt, D_tgt]`.
    """

    cross: Tensor
    source: Tensor
    target: Tensor


def semantic_bases(heads: Heads) -> Bases:
    """Accumulate products of the unit-normalised semantic bases in two passes over the heads."""
    d_source, d_target = heads.source.shape[1], heads.target.shape[1]
    inverse_source = inverse(gram((s for s, _ in heads.chunks()), d_source))
    inverse_target = inverse(gram((t for _, t in heads.chunks()), d_target))
    cross = inverse_source.new_zeros(d_target, d_source)
    source, target = torch.zeros_like(inverse_source), torch.zeros_like(inverse_target)
    for head_source, head_target in heads.chunks():
        basis_source = unit_rows(head_source @ inverse_source)
        basis_target = unit_rows(head_target @ inverse_target)
        cross += basis_target.T @ basis_source
        source += basis_source.T @ basis_source
        target += basis_target.T @ basis_target
    return Bases(cross, source, target)


def unit(heads: Heads) -> Tensor:
    """Return `S_tgt S_srcᵀ`, the published map: cosine coefficients, recomposed."""
    return semantic_bases(heads).cross


def tight(heads: Heads) -> Tensor:
    """Return the map between whitened frames `(S Sᵀ)^(−1/2) S`; identity from a model to itself."""
    bases = semantic_bases(heads)
    return spectral(bases.target, -0.5) @ bases.cross @ spectral(bases.source, -0.5)


def dual(heads: Heads) -> Tensor:
    """Return `(S_tgt S_tgtᵀ)⁻¹ S_tgt S_srcᵀ`: the target state whose coefficients fit best."""
    bases = semantic_bases(heads)
    return inverse(bases.target) @ bases.cross


def lens(heads: Heads) -> Tensor:
    """Return `W_tgt⁺ W_src`: the target state whose logit lens best matches the source's."""
    d_source, d_target = heads.source.shape[1], heads.target.shape[1]
    cross = torch.zeros(d_target, d_source, dtype=torch.float64, device=heads.source.device)
    for head_source, head_target in heads.chunks():
        cross += head_target.T @ head_source
    return inverse(gram((t for _, t in heads.chunks()), d_target)) @ cross


MAPS: Mapping[str, Callable[[Heads], Tensor]] = {
    "unit": unit,
    "tight": tight,
    "dual": dual,
    "lens": lens,
}
"""Maps by the name used in recipes; all return fp64 `[D_tgt, D_src]`."""


def random_like(matrix: Tensor, seed: int) -> Tensor:
    """Return a Gaussian matrix of the same shape and Frobenius norm: a map without meaning."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(matrix.shape, dtype=torch.float64, generator=generator).to(matrix.device)
    return draw * (matrix.norm() / draw.norm())

"""Low-rank factors of a matrix by its leading singular triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from pktkit.errors import NonFiniteError
from pktkit.training.loop import seeded

SVD = ("exact", "randomised")
SIGMA = ("B", "both")

OVERSAMPLING = 16
"""Extra directions of the randomised decomposition."""


def factors(
    matrix: Tensor,
    rank: int,
    *,
    svd: str = "exact",
    niter: int = 4,
    seed: int = 0,
    sigma: str = "B",
) -> tuple[Tensor, Tensor]:
    """Return `B` `[out, r]` and `A` `[r, in]`, whose product is the best approximation of rank r.

    Arguments:
        matrix: `[out, in]`, fp32.
        rank: r, at most the smaller side.
        svd: `"exact"` (thin, all triplets) or `"randomised"` (range finder on r + 16 directions).
        niter: power iterations of the randomised one.
        seed: of the randomised one; the global random state is left alone.
        sigma: `"B"` for `B = U Σ`, `A = Vᵀ` (arXiv 2310.11451), `"both"` for `B = U Σ^½`,
            `A = Σ^½ Vᵀ` (arXiv 2404.02948, equations 2 and 3).

    Raises:
        NonFiniteError: the matrix holds NaN or infinity.
    """
    if not bool(matrix.isfinite().all()):
        raise NonFiniteError(
            f"a matrix of shape {tuple(matrix.shape)} holds NaN or infinite weights and has no "
            "singular values. Check the checkpoint."
        )
    u, values, vh = _triplets(matrix, rank, svd, niter, seed)
    u, values, vh = u[:, :rank], values[:rank], vh[:rank]
    if sigma == "both":
        root = values.sqrt()
        return (u * root).contiguous(), (root[:, None] * vh).contiguous()
    return (u * values).contiguous(), vh.contiguous()


def kept_energy(matrix: Tensor, b: Tensor, a: Tensor) -> float:
    """Return the share of the matrix's squared Frobenius norm that its factors keep, 0 to 1."""
    total = float(matrix.square().sum(dtype=torch.float64))
    gram = (b.double().T @ b.double()) * (a.double() @ a.double().T)
    return float(gram.sum()) / total if total else 1.0


def _triplets(
    matrix: Tensor, rank: int, svd: str, niter: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    if svd == "exact":
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, values, vh
    with seeded(seed):
        sketch = min(rank + OVERSAMPLING, *matrix.shape)
        u, values, v = torch.svd_lowrank(matrix, q=sketch, niter=niter)
    return u, values, v.T

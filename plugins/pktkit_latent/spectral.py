"""Powers and inverses of symmetric positive semi-definite matrices, in fp64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

RANK_TOLERANCE = 1e-12
"""Eigenvalues of a Gram matrix below this share of the largest count as zero. It corresponds to
singular values of 1e-6 of the largest; the default of `torch.linalg.pinv` drops directions
thousands of times larger in single precision."""


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

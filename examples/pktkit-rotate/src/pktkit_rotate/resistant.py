"""Weighted Procrustes maps, and the weights that make them resistant.

Least squares lets the token with the largest residual pull hardest. Residual streams have such
tokens: a few with activations a thousand times the usual ones (Sun et al. 2024, arXiv 2402.17762).
Iterative reweighting minimises a loss that grows more slowly with the residual's length (Verboon
and Heiser 1992, Resistant orthogonal Procrustes analysis, Journal of Classification 9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.state_maps import AffineMap

if TYPE_CHECKING:
    from torch import Tensor

RANK_TOLERANCE = 1e-12
"""Singular values below this share of the largest leave their direction undetermined."""


@attrs.define(eq=False)
class WeightedSums:
    """Weighted sums over chunks of paired states, in fp64, about the first chunk's means.

    The means move little after the first chunk, so that nothing large is subtracted at the end.
    """

    weight: float = 0.0
    squared_weight: float = 0.0
    _pivots: tuple[Tensor, Tensor] | None = None
    _sums: list[Tensor] = attrs.field(factory=list)

    def add(self, ours: Tensor, theirs: Tensor, weights: Tensor) -> None:
        """Take in states `[tokens, D_src]` and `[tokens, D_tgt]` with weights `[tokens]`."""
        ours, theirs, weights = ours.double(), theirs.double(), weights.double()
        if self._pivots is None:
            self._pivots = ours.mean(dim=0), theirs.mean(dim=0)
        ours, theirs = ours - self._pivots[0], theirs - self._pivots[1]
        weighted = weights[:, None] * ours
        parts = [
            weighted.sum(dim=0),
            (weights[:, None] * theirs).sum(dim=0),
            theirs.T @ weighted,
            ours.T @ weighted,
        ]
        if self._sums:
            parts = [total + part for total, part in zip(self._sums, parts, strict=True)]
        self._sums = parts
        self.weight += float(weights.sum())
        self.squared_weight += float(weights.square().sum())

    @property
    def effective_tokens(self) -> float:
        """How many equally weighted tokens the weights are worth (Kish)."""
        return self.weight**2 / self.squared_weight

    def rotation(self) -> AffineMap:
        """Return `h ↦ s Q (h − mean_src) + mean_tgt` of least weighted squared error.

        `Q = U Vᵀ` from the SVD of the weighted cross-covariance, semi-orthogonal where the widths
        differ; `s` is the least-squares factor for this Q. Undetermined directions go to zero.
        """
        assert self._pivots is not None
        ours, theirs, cross, own = (part / self.weight for part in self._sums)
        cross = cross - torch.outer(theirs, ours)
        own = own - torch.outer(ours, ours)
        left, values, right = torch.linalg.svd(cross, full_matrices=False)
        kept = int((values > values[0] * RANK_TOLERANCE).sum())
        turned = left[:, :kept] @ right[:kept]
        spread = float(((turned @ own) * turned).sum())
        scale = float(values[:kept].sum()) / spread if spread > 0 else 0.0
        return AffineMap(
            scale * turned, centre=self._pivots[0] + ours, offset=self._pivots[1] + theirs
        )


def huber(lengths: Tensor) -> Tensor:
    """Return weights `min(1, 1 / r)` of residual lengths in units of the cutoff."""
    return 1 / lengths.clamp(min=1)


def biweight(lengths: Tensor) -> Tensor:
    """Return weights `(1 − r²)²`, and zero beyond the cutoff (Tukey)."""
    return (1 - lengths.clamp(max=1).square()).square()


LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {"huber": huber, "biweight": biweight}
"""Weights by the name of the loss they minimise."""


def token_weights(lengths: Tensor, loss: str, cutoff: float) -> Tensor:
    """Return one weight per token, 0 to 1.

    Arguments:
        lengths: of the residuals, `[tokens]`.
        loss: one of `LOSSES`.
        cutoff: in units of the median length; a median of zero leaves all weights at one.
    """
    unit = float(lengths.median()) * cutoff
    return LOSSES[loss](lengths / unit) if unit > 0 else torch.ones_like(lengths)

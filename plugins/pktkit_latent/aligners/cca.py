"""Canonical correlation: only what both models vary together passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit_latent.aligners.delivery import MAP_FILE
from pktkit_latent.aligners.fitting import FittedOptions, fit_alignment
from pktkit_latent.spectral import RANK_TOLERANCE

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.activations.moments import Moments
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import Alignment, LayerMap


@attrs.frozen
class CcaOptions(FittedOptions):
    """Settings of the canonical-correlation aligner."""

    variance: float = option(
        0.99,
        "Share of each side's variance that is kept first; 1 is plain CCA, 0.99 SVCCA.",
        validator=validators.and_(validators.gt(0), validators.le(1)),
    )
    rank: int | None = option(
        None,
        "Canonical directions the map goes through; null for all.",
        validator=validators.optional(validators.ge(1)),
    )
    shrinkage: float = option(
        0.0,
        "Added to both covariances, as a share of their mean eigenvalue; 0 as published.",
        validator=validators.ge(0),
    )


@attrs.frozen(eq=False)
class Principal:
    """The leading principal directions of one side.

    Arguments:
        vectors: `[D, kept]`, orthonormal columns.
        deviations: `[kept]`, square roots of the shrunk variances along them.
    """

    vectors: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, covariance: Tensor, variance: float, shrinkage: float) -> Principal:
        """Keep the fewest leading directions that hold a share `variance` of the trace."""
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
        shares = values.cumsum(0) / values.sum().clamp(min=1e-300)
        enough = int((shares < variance * (1 - 1e-12)).sum()) + 1
        kept = min(enough, int((values > values[0] * RANK_TOLERANCE).sum()))
        shrunk = values[:kept] + shrinkage * values.mean()
        return cls(vectors[:, :kept], shrunk.sqrt())

    @property
    def whitening(self) -> Tensor:
        """`[kept, D]`: maps centred states to white coordinates."""
        return (self.vectors / self.deviations).T

    @property
    def colouring(self) -> Tensor:
        """`[D, kept]`: maps white coordinates back."""
        return self.vectors * self.deviations


def cca_map(
    moments: Moments, *, variance: float, rank: int | None, shrinkage: float
) -> tuple[AffineMap, Tensor]:
    """Return regression through canonical directions, and the canonical correlations.

    Each side is reduced to its leading principal directions (Raghu et al., arXiv 1706.05806) and
    whitened with shrunk variances. With `U Σ Vᵀ` the SVD of the whitened cross-covariance,
    `M = colour_tgt U_r Σ_r V_rᵀ white_src`: the best prediction of the target's canonical
    variates from the source's, first `r` pairs. All pairs, all variance and no shrinkage are
    ordinary least squares.

    Arguments:
        moments: with both covariances.
        variance: share of variance kept on each side.
        rank: canonical pairs; None for all.
        shrinkage: relative to each covariance's mean eigenvalue.

    Returns:
        The map, and the correlations `[r]`, descending.

    Raises:
        UsageError: `rank` is more than the data determine.
    """
    assert moments.source is not None and moments.target is not None
    source = Principal.of(moments.source, variance, shrinkage)
    target = Principal.of(moments.target, variance, shrinkage)
    available = min(len(source.deviations), len(target.deviations))
    if rank is not None and rank > available:
        raise UsageError(_too_high(rank, available, moments, source, target, variance))
    white = source.whitening
    left, values, right = torch.linalg.svd(
        target.whitening @ moments.cross @ white.T, full_matrices=False
    )
    used = available if rank is None else rank
    through = (left[:, :used] * values[:used]) @ right[:used]
    matrix = target.colouring @ through @ white
    centred = AffineMap(matrix, centre=moments.mean_source, offset=moments.mean_target)
    return centred, values[:used].clamp(max=1.0)


def _too_high(
    rank: int,
    available: int,
    moments: Moments,
    source: Principal,
    target: Principal,
    variance: float,
) -> str:
    d_target, d_source = moments.cross.shape
    return (
        f"rank {rank} is more than {moments.count} tokens determine: {len(source.deviations)} of "
        f"{d_source} directions of the source and {len(target.deviations)} of {d_target} of the "
        f"target hold a share {variance:g} of the variance. Use rank={available} or less, raise "
        "variance, or fit on more tokens, e.g. split=train."
    )


class CcaAligner:
    """Maps each linked block through canonical directions of the two spaces."""

    Options = CcaOptions
    capabilities = Capabilities(
        affine=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.1,
        saving=MAP_FILE,
    )

    def __init__(self, options: CcaOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block; errors as in `fit_alignment`.

        Diagnostics per block: `rank`, the canonical pairs used, and `mean_correlation`.
        """

        def fit(moments: Moments) -> tuple[AffineMap, dict[str, float]]:
            state_map, correlations = cca_map(
                moments,
                variance=self.options.variance,
                rank=self.options.rank,
                shrinkage=self.options.shrinkage,
            )
            mean = float(correlations.mean()) if len(correlations) else 0.0
            return state_map, {"rank": len(correlations), "mean_correlation": mean}

        return fit_alignment(
            "cca", pair, layer_map, probe, self.options, fit, source=True, target=True
        )

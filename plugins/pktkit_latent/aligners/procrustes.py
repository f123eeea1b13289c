"""Procrustes: the rotation that brings the source's states closest to the target's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit_latent.aligners.delivery import MAP_FILE
from pktkit_latent.aligners.fitting import FittedOptions, fit_alignment
from pktkit_latent.spectral import RANK_TOLERANCE

if TYPE_CHECKING:
    from pktkit.activations.moments import Moments
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import Alignment, LayerMap


@attrs.frozen
class ProcrustesOptions(FittedOptions):
    """Settings of the Procrustes aligner."""

    scale: str = option(
        "fitted",
        "Factor on the rotation: none, or the least-squares one.",
        choices=("none", "fitted"),
    )


def procrustes_map(moments: Moments, scale: str) -> tuple[AffineMap, int]:
    """Return `h ↦ s Q (h − mean_src) + mean_tgt` and how many directions the data determine.

    `Q = U Vᵀ` from the SVD `U Σ Vᵀ` of the cross-covariance maximises `tr(Qᵀ C_ts)` over
    semi-orthogonal matrices (Schönemann 1966; of unequal widths, over matrices with orthonormal
    rows or columns). Directions without cross-covariance go to zero: a rotation there would be
    arbitrary. `s = tr(Qᵀ C_ts) / tr(Q C_ss Qᵀ)` minimises the squared error for this Q.

    Arguments:
        moments: with the source's covariance where `scale` is `fitted`.
        scale: `none` or `fitted`.
    """
    left, values, right = torch.linalg.svd(moments.cross, full_matrices=False)
    kept = int((values > values[0] * RANK_TOLERANCE).sum())
    rotation = left[:, :kept] @ right[:kept]
    if scale == "fitted":
        assert moments.source is not None
        spread = float(((rotation @ moments.source) * rotation).sum())
        rotation = rotation * (float(values[:kept].sum()) / spread if spread > 0 else 0.0)
    centred = AffineMap(rotation, centre=moments.mean_source, offset=moments.mean_target)
    return centred, kept


class ProcrustesAligner:
    """Maps each linked block by a centred semi-orthogonal matrix."""

    Options = ProcrustesOptions
    capabilities = Capabilities(
        affine=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=1e-5,
        saving=MAP_FILE,
    )

    def __init__(self, options: ProcrustesOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block; errors as in `fit_alignment`.

        The diagnostic `determined` counts, per block, the directions that the tokens determine.
        """

        def fit(moments: Moments) -> tuple[AffineMap, dict[str, int]]:
            state_map, determined = procrustes_map(moments, self.options.scale)
            return state_map, {"determined": determined}

        return fit_alignment(
            "procrustes",
            pair,
            layer_map,
            probe,
            self.options,
            fit,
            source=self.options.scale == "fitted",
        )

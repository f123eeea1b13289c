"""Ridge regression of the target's states on the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit_latent.aligners.delivery import MAP_FILE
from pktkit_latent.aligners.fitting import FittedOptions, fit_alignment
from pktkit_latent.spectral import inverse

if TYPE_CHECKING:
    from pktkit.activations.moments import Moments
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import Alignment, LayerMap


PENALTY = 1e-2
"""Default penalty. On held-out tokens of the embedded pair it costs at most 0.03 of R² where there
are ten tokens per channel or more, and gains 0.2 to 0.5 where there is about one, as in small
`align` splits (see `docs/methods/aligners.md`)."""


@attrs.frozen
class RidgeOptions(FittedOptions):
    """Settings of the ridge aligner."""

    penalty: float = option(
        PENALTY,
        "Ridge penalty as a share of the mean eigenvalue of the source's covariance.",
        validator=validators.ge(0),
    )


def ridge_map(moments: Moments, penalty: float) -> AffineMap:
    """Return the affine least-squares map with a penalty on its matrix.

    `M = C_ts (C_ss + λ I)⁻¹`, `λ = penalty · tr(C_ss) / D_src`; the means are not penalised. With
    penalty 0 and fewer tokens than width, the solution of least norm.

    Arguments:
        moments: with the source's covariance.
        penalty: relative, so that the map of scaled states is the scaled map.
    """
    assert moments.source is not None
    damped = moments.source.clone()
    damped.diagonal().add_(penalty * moments.source.diagonal().mean())
    return AffineMap(
        moments.cross @ inverse(damped), centre=moments.mean_source, offset=moments.mean_target
    )


class RidgeAligner:
    """Maps each linked block by affine least squares with a relative penalty."""

    Options = RidgeOptions
    capabilities = Capabilities(
        affine=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.05,
        saving=MAP_FILE,
    )

    def __init__(self, options: RidgeOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block; errors as in `fit_alignment`."""
        return fit_alignment(
            "ridge",
            pair,
            layer_map,
            probe,
            self.options,
            lambda moments: (ridge_map(moments, self.options.penalty), {}),
            source=True,
        )

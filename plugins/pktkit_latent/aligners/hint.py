"""Hints: the target learns a readout of its states that predicts the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.state_maps import Readout
from pktkit_latent.aligners.mapless import MaplessOptions, deliver_unmapped
from pktkit_latent.aligners.placebo import mapless_placebo_option

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import Alignment, LayerMap


@attrs.frozen
class HintOptions(MaplessOptions):
    """Settings of the hint aligner."""

    placebo: str = mapless_placebo_option("hint")


class HintAligner:
    """Leaves the source's states as they are; a readout is learned per block (FitNets).

    The regressor `r(h_tgt)` of arXiv 1412.6550, equation 3, is linear here, `D_tgt → D_src`, and
    is trained together with the target by the injector. It is thrown away afterwards.
    """

    Options = HintOptions
    capabilities = Capabilities(
        affine=True,
        homogeneous=1,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: HintOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return the source's own states with one readout per linked block.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        readout = Readout(pair.target.anatomy.width, pair.source.anatomy.width)
        return deliver_unmapped(
            "hint",
            layer_map,
            probe,
            self.options,
            placebo=self.options.placebo,
            readouts={link.target: readout for link in layer_map.links},
        )

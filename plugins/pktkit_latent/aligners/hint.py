"""Hints: the target learns a readout of its states that predicts the source's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import Readout, identity
from pktkit.values import Alignment, Interface, LayerMap, Space, TargetStates
from pktkit_latent.aligners.delivery import deliver
from pktkit_latent.aligners.placebo import mapless_placebo_option

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe


@attrs.frozen
class HintOptions:
    """Settings of the hint aligner."""

    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the figures are computed on.")
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

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return the source's own states with one readout per linked block.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        widths = pair.target.anatomy.width, pair.source.anatomy.width
        blocks = [link.target for link in layer_map.links]
        states = TargetStates(
            maps=dict.fromkeys(blocks, identity),
            layer_map=layer_map,
            interface=self.options.interface,
            space=Space.ORIGIN,
            readouts=dict.fromkeys(blocks, Readout(*widths)),
        )
        return deliver(
            "hint", states, probe, split=self.options.split, placebo=self.options.placebo
        )

"""Relations: what two spaces can share without a map, the geometry among tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import identity
from pktkit.values import Alignment, Interface, LayerMap, Space, TargetStates
from pktkit_latent.aligners.delivery import deliver
from pktkit_latent.aligners.placebo import mapless_placebo_option

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe


@attrs.frozen
class RelationOptions:
    """Settings of the relation aligner."""

    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the figures are computed on.")
    placebo: str = mapless_placebo_option("relation")


class RelationAligner:
    """Leaves the source's states in their own space, for layer terms that compare relations.

    Such terms (token–token Gram matrices, CKA) do not change under rotations of either space, so
    no basis has to be chosen. Terms that compare states one by one refuse this alignment.
    """

    Options = RelationOptions
    capabilities = Capabilities(
        affine=True,
        homogeneous=1,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: RelationOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return the source's own states for every linked block, without readouts.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        states = TargetStates(
            maps={link.target: identity for link in layer_map.links},
            layer_map=layer_map,
            interface=self.options.interface,
            space=Space.ORIGIN,
        )
        return deliver(
            "relation", states, probe, split=self.options.split, placebo=self.options.placebo
        )

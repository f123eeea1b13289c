"""The self anchor: a placebo that involves no source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import identity
from pktkit.values import Alignment, Interface, LayerMap, Origin, TargetStates

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe


@attrs.frozen
class SelfOptions:
    """Settings of the self anchor."""

    interface: Interface = option(Interface.RESIDUAL, "Where states are read.")


class SelfAnchor:
    """Placebo: aligns the target to its own frozen states. No source is involved."""

    Options = SelfOptions
    capabilities = Capabilities(
        any_pair=True,
        affine=True,
        homogeneous=1,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: SelfOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return the target's own states, unmapped, for every linked block."""
        states = TargetStates(
            maps={link.target: identity for link in layer_map.links},
            layer_map=layer_map,
            interface=self.options.interface,
            origin=Origin.TARGET,
        )
        return Alignment("self", layer_map, target_states=states)

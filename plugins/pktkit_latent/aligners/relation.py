"""Relations: what two spaces can share without a map, the geometry among tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit_latent.aligners.mapless import MaplessOptions, deliver_unmapped
from pktkit_latent.aligners.placebo import mapless_placebo_option

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import Alignment, LayerMap


@attrs.frozen
class RelationOptions(MaplessOptions):
    """Settings of the relation aligner."""

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

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return the source's own states for every linked block, without readouts.

        Raises:
            PairIncompatibleError: the tokenizers differ.
        """
        return deliver_unmapped(
            "relation", layer_map, probe, self.options, placebo=self.options.placebo
        )

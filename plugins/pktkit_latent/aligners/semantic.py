"""The semantic aligner: source states expressed in target space through the shared vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit.values import Alignment, Interface, LayerMap, TargetStates
from pktkit_latent.aligners.delivery import MAP_FILE, deliver
from pktkit_latent.aligners.placebo import placebo_option, seed_option
from pktkit_latent.digest import tensor_digest
from pktkit_latent.maps import MAPS, MAPS_VERSION, Heads
from pktkit_latent.spectral import double_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect


@attrs.frozen
class SemanticOptions:
    """Settings of the semantic aligner."""

    map: str = option("unit", "Which vocabulary map.", choices=tuple(MAPS))
    fold_norm: bool = option(False, "Multiply both LM heads by their final norm's gain first.")
    interface: Interface = option(
        Interface.CONTRIBUTION, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the figures are computed on.")
    placebo: str = placebo_option()
    seed: int | None = seed_option()
    save: str = option("", "File to write the map to; empty for none.")


def aligned_heads(pair: ModelPair, *, fold_norm: bool) -> Heads:
    """Return both LM heads over the tokens the models share, padded rows left out.

    Raises:
        PairIncompatibleError: the vocabularies share too little.
    """
    shared = pair.require_shared_vocabulary("the semantic map")
    return Heads(
        _rows(pair.source, shared.source_ids, fold_norm),
        _rows(pair.target, shared.target_ids, fold_norm),
    )


def _rows(model: LoadedModel, ids: Sequence[int], fold_norm: bool) -> Tensor:
    """Return the LM head's rows of the given tokens; a range of them is not copied."""
    weight = model.anatomy.head_weight.detach()
    weight = weight[: len(ids)] if isinstance(ids, range) else weight[list(ids)]
    return (
        weight.float() * model.anatomy.final_norm_gain().to(weight.device) if fold_norm else weight
    )


class SemanticAligner:
    """Maps every linked block with ONE matrix from the two LM heads (arXiv 2510.24208)."""

    Options = SemanticOptions
    capabilities = Capabilities(
        homogeneous=0,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        saving=MAP_FILE,
    )

    def __init__(self, options: SemanticOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse vocabularies that share too little."""
        prospect.pair.require_states()
        prospect.pair.require_shared_vocabulary("the semantic map")

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block.

        Raises:
            PairIncompatibleError: the vocabularies share too little.
        """
        heads = aligned_heads(pair, fold_norm=self.options.fold_norm)
        device = double_device(heads.target.device)
        heads = Heads(heads.source.to(device), heads.target.to(device))
        matrix = self._matrix(heads, probe)
        semantic_map = AffineMap(matrix, normalise=True)
        states = TargetStates(
            maps={link.target: semantic_map for link in layer_map.links},
            layer_map=layer_map,
            interface=self.options.interface,
        )
        return deliver(
            "semantic",
            states,
            probe,
            split=self.options.split,
            placebo=self.options.placebo,
            seed=self.options.seed,
            save=self.options.save,
            diagnostics={
                "map": self.options.map,
                "vocabulary": heads.source.shape[0],
                "frobenius_norm": float(matrix.norm()),
            },
        )

    def _matrix(self, heads: Heads, probe: Probe) -> Tensor:
        """Return the map, computed once per pair of heads and kept where readings are kept."""
        key = {
            "reading": "semantic-map",
            "version": MAPS_VERSION,
            "map": self.options.map,
            "heads": tensor_digest({"source": heads.source, "target": heads.target}),
        }
        return probe.cached(key, lambda: {"matrix": MAPS[self.options.map](heads)})["matrix"]

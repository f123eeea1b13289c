"""The semantic aligner: source states expressed in target space through the shared vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.options import option
from pktkit.state_maps import AffineMap, identity
from pktkit.values import Alignment, Interface, LayerMap, Origin, TargetStates
from pktkit_latent.maps import MAPS, Heads, random_like

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe

PLACEBOS = ("none", "random-map", "shuffled-items")


@attrs.frozen
class SemanticOptions:
    """Settings of the semantic aligner."""

    map: str = option("unit", "Which vocabulary map.", choices=tuple(MAPS))
    fold_norm: bool = option(False, "Multiply both LM heads by their final norm's gain first.")
    interface: Interface = option(
        Interface.CONTRIBUTION, "Where states are read: residual stream or block contribution."
    )
    placebo: str = option(
        "none",
        "Control: a meaningless map of equal norm, or the source states of other items.",
        choices=PLACEBOS,
    )
    seed: int | None = option(None, "Of the random map; null takes the run's seed.")


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

    def __init__(self, options: SemanticOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block.

        Raises:
            PairIncompatibleError: the vocabularies share too little.
        """
        heads = aligned_heads(pair, fold_norm=self.options.fold_norm)
        heads = attrs.evolve(heads, source=heads.source.to(heads.target.device))
        matrix = MAPS[self.options.map](heads)
        if self.options.placebo == "random-map":
            matrix = random_like(matrix, self.options.seed or 0)
        semantic_map = AffineMap(matrix, normalise=True)
        states = TargetStates(
            maps={link.target: semantic_map for link in layer_map.links},
            layer_map=layer_map,
            interface=self.options.interface,
            shuffle_items=self.options.placebo == "shuffled-items",
        )
        diagnostics = {
            "map": self.options.map,
            "placebo": self.options.placebo,
            "vocabulary": heads.source.shape[0],
            "frobenius_norm": float(matrix.norm()),
        }
        return Alignment("semantic", layer_map, target_states=states, diagnostics=diagnostics)


@attrs.frozen
class SelfOptions:
    """Settings of the self anchor."""

    interface: Interface = option(Interface.RESIDUAL, "Where states are read.")


class SelfAnchor:
    """Placebo: aligns the target to its own frozen states. No source is involved."""

    Options = SelfOptions

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

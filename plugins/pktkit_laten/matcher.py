"""Layer matching by neuron attribution (arXiv 2505.14436, locating stage)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.values import LayerLink, LayerMap, Origin
from pktkit_laten.attribution import Attribution, AttributionOptions, paired_blocks
from pktkit_laten.reading import Half

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect


@attrs.frozen
class NeuronAttributionOptions(AttributionOptions):
    """Settings of matching by neuron attribution."""

    half: str = option(
        "ffn",
        "Half of the blocks whose scores decide the links; the other's pairing stands in the note.",
        choices=tuple(map(str, Half)),
    )
    split: str = option("extract", "Split whose answers are attributed.")
    examples: int = option(
        20, "Leading items of the split that are read; 0 reads all.", validator=validators.ge(0)
    )


class NeuronAttributionMatcher:
    """Keeps the source's blocks that raise the answers most, as many as the target has.

    Scores are means over the items. The published method ranks attention and feed-forward halves
    apart, so that a target block may be paired with two source blocks, and does so anew for every
    item. A layer map has one list of links: those of one half, the other half's pairing is in the
    note. The aligner `hypernetwork` follows the published method unless told to use the map.
    """

    Options = NeuronAttributionOptions
    capabilities = Capabilities(
        monotone=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: NeuronAttributionOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a source without weights."""
        prospect.require_model("neuron attribution")

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per kept source block.

        Raises:
            UsageError: an item's answer is empty.
            NonFiniteError: a score is not finite.
        """
        source = self._scores(pair.source, probe.encoded(self.options.split, Origin.SOURCE).items)
        target = self._scores(pair.target, probe.encoded(self.options.split).items)
        pairs = {half: paired_blocks(source[half], target[half]) for half in Half}
        chosen = Half(self.options.half)
        other = next(half for half in Half if half is not chosen)
        written = " ".join(f"{s}→{t}" for s, t in pairs[other])
        return LayerMap(
            links=[LayerLink(t, (s,)) for s, t in pairs[chosen]],
            source_blocks=pair.source.anatomy.n_blocks,
            target_blocks=pair.target.anatomy.n_blocks,
            method="neuron-attribution",
            scores=source[chosen].tolist(),
            note=f"links of the {chosen} halves; by the {other} halves: {written}",
        )

    def _scores(self, model: LoadedModel, items: Sequence[EncodedItem]) -> Mapping[Half, Tensor]:
        """Return mean scores by half, `[blocks]`."""
        read = items[: self.options.examples or None]
        found = [Attribution.of(model, item, self.options) for item in read]
        return {
            half: torch.stack([each.block_scores(half) for each in found]).double().mean(dim=0)
            for half in Half
        }

"""Maps that an aligner wrote to a file before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.values import Alignment, LayerMap, TargetStates
from pktkit_latent.aligners.delivery import deliver
from pktkit_latent.aligners.placebo import placebo_option, seed_option
from pktkit_latent.map_files import StoredMaps, load_maps

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect


@attrs.frozen
class MapFileOptions:
    """Settings of stored maps."""

    path: str = option(attrs.NOTHING, "File written by an aligner's option 'save'.")
    split: str = option("align", "Split whose tokens the figures are computed on.")
    placebo: str = placebo_option()
    seed: int | None = seed_option()


class MapFileAligner:
    """Uses the maps of a file, for the pair and the links they were made for."""

    Options = MapFileOptions

    def __init__(self, options: MapFileOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a missing or damaged file; whose it is shows in the weights."""
        load_maps(self.options.path)

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block; without links, for the file's own.

        Raises:
            UsageError: no such file, a damaged one, or one without the blocks that are linked.
            PairIncompatibleError: the file belongs to other models.
        """
        stored = load_maps(self.options.path)
        stored.require_pair(pair, f"map file '{self.options.path}'")
        used = stored.layer_map
        if layer_map.links:
            _require_links(stored, layer_map, self.options.path)
            used = layer_map
        states = TargetStates(
            maps={link.target: stored.maps[link.target] for link in used.links},
            layer_map=used,
            interface=stored.interface,
        )
        return deliver(
            "map-file",
            states,
            probe,
            split=self.options.split,
            placebo=self.options.placebo,
            seed=self.options.seed,
            diagnostics={"aligner": stored.aligner, "path": self.options.path},
        )


def _require_links(stored: StoredMaps, layer_map: LayerMap, path: str) -> None:
    missing = [link.target for link in layer_map.links if link.target not in stored.maps]
    if missing:
        raise UsageError(
            f"map file '{path}' has maps for target blocks {sorted(stored.maps)}, but the layer "
            f"map '{layer_map.method}' also links {missing}. Fit the maps with the same matcher."
        )
    for link in layer_map.links:
        fitted = stored.layer_map.link(link.target)
        if (fitted.sources, fitted.weights) != (link.sources, link.weights):
            raise UsageError(
                f"map file '{path}': the map of target block {link.target} was made for source "
                f"blocks {list(fitted.sources)} with weights {list(fitted.weights)}, but the layer "
                f"map '{layer_map.method}' reads {list(link.sources)} with weights "
                f"{list(link.weights)}. Fit the maps with the same matcher."
            )

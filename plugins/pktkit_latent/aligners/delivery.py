"""The last steps that all aligners of source states share: keep, control, measure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pktkit.activations.paired import PairedStates
from pktkit.capabilities import Saving
from pktkit.errors import UsageError
from pktkit.values import Alignment, LayerMap, TargetStates
from pktkit_latent.aligners.figures import fit_figures
from pktkit_latent.aligners.placebo import with_placebo
from pktkit_latent.map_files import save_maps

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.probe import Probe

MAP_FILE = Saving("save", "pktkit_latent.aligners.map_file:MapFileAligner", "path")
"""How all aligners that deliver affine maps save them, for their `capabilities`."""


def deliver(
    method: str,
    states: TargetStates,
    probe: Probe,
    *,
    split: str,
    placebo: str = "none",
    seed: int | None = None,
    kept: Tensor | None = None,
    save: str = "",
    diagnostics: Mapping[str, Any] | None = None,
) -> Alignment:
    """Return an alignment of states: saved, with its placebo and its fit figures.

    Arguments:
        method: name of the aligner.
        states: as aligned, without placebo; this is what is saved.
        probe: reads the states that figures are computed on.
        split: of the figures.
        placebo, seed: see `with_placebo`.
        kept: which tokens of the split count, see `PairedStates`.
        save: file to write the maps to; empty for none.
        diagnostics: what the aligner itself reports.

    Raises:
        UsageError: there is no linked block, or the maps cannot be saved.
    """
    require_links(method, states.layer_map)
    if save:
        save_maps(save, states, probe.pair, aligner=method)
    states = with_placebo(states, placebo, seed)
    paired = PairedStates(probe, split, states.interface, kept)
    return Alignment(
        method,
        states.layer_map,
        target_states=states,
        diagnostics={
            **(diagnostics or {}),
            "placebo": placebo,
            "fit": fit_figures(states, paired),
        },
    )


def require_links(method: str, layer_map: LayerMap) -> None:
    """Refuse a layer map without links.

    Raises:
        UsageError: there are none.
    """
    if not layer_map.links:
        raise UsageError(
            f"aligner '{method}' aligns linked blocks, but the layer map links none. "
            "Name a matcher in the strategy, e.g. 'depth'."
        )

"""States that stay in the source's own space, and what the aligners that leave them there share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from pktkit.options import option
from pktkit.state_maps import Readout, identity
from pktkit.values import Alignment, Interface, LayerMap, Space, TargetStates
from pktkit_latent.aligners.delivery import deliver

if TYPE_CHECKING:
    from pktkit.probe import Probe


@attrs.frozen
class MaplessOptions:
    """Settings that every aligner without a map has, beside its `mapless_placebo_option`."""

    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the figures are computed on.")


def deliver_unmapped(
    method: str,
    layer_map: LayerMap,
    probe: Probe,
    options: MaplessOptions,
    *,
    placebo: str,
    readouts: Mapping[int, Readout] | None = None,
) -> Alignment:
    """Return the source's own states for every linked block.

    Arguments:
        method: name of the aligner.
        layer_map: which blocks are linked.
        probe: reads the states that figures are computed on.
        options: where states are read.
        placebo: see `with_placebo`.
        readouts: by target block, a readout that is learned; None for none.

    Raises:
        UsageError: there is no linked block.
    """
    states = TargetStates(
        maps={link.target: identity for link in layer_map.links},
        layer_map=layer_map,
        interface=options.interface,
        space=Space.ORIGIN,
        readouts=readouts or {},
    )
    return deliver(method, states, probe, split=options.split, placebo=placebo)

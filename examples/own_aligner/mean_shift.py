"""A complete pktkit plugin in one file: an aligner that only moves means.

It cuts or pads the source's states to the target's width and gives them the target's mean.
Install it beside pktkit with the `pyproject.toml` in this folder, then:
pktkit compare --strategies latent,mean-shift
"""

import attrs
import torch

from pktkit.activations.moments import stream_moments
from pktkit.activations.paired import PairedStates
from pktkit.components import Choice, Component, Strategy
from pktkit.hookspecs import hookimpl
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit.values import Alignment, Interface, TargetStates


@attrs.frozen
class Options:
    interface: Interface = option(Interface.RESIDUAL, "Where states are read.")


class MeanShift:
    Options = Options

    def __init__(self, options):
        self.options = options

    def align(self, pair, layer_map, probe):
        widths = pair.target.anatomy.width, pair.source.anatomy.width
        cut = torch.eye(*widths, dtype=torch.float64)  # or pad
        paired = PairedStates(probe, "align", self.options.interface)
        maps = {
            link.target: AffineMap(cut, centre=moments.mean_source, offset=moments.mean_target)
            for link, moments in stream_moments(paired, layer_map)
        }
        states = TargetStates(maps, layer_map, self.options.interface)
        return Alignment("mean-shift", layer_map, target_states=states)


STRATEGY = Strategy(
    "mean-shift", Choice("depth"), Choice("mean-shift"), Choice("all-blocks"), summary="example"
)


@hookimpl
def pktkit_latent_aligners():
    return [
        Component("mean-shift", "mean_shift:MeanShift", "cut or padded, with the target's mean")
    ]


@hookimpl
def pktkit_strategies():
    return [Component("mean-shift", "mean_shift:STRATEGY")]

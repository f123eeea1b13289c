"""A complete pktkit plugin in one file: an aligner that only moves means.

It pads or cuts the source's states to the target's width. Install it beside pktkit with the
`pyproject.toml` in this folder, then: pktkit compare --strategies latent,mean-shift
"""

import attrs
from torch.nn.functional import pad

from pktkit.components import Choice, Component, Strategy
from pktkit.hookspecs import hookimpl
from pktkit.options import option
from pktkit.values import Alignment, Interface, TargetStates


@attrs.frozen
class Options:
    interface: Interface = option(Interface.RESIDUAL, "Where states are read.")


class MeanShift:
    Options = Options

    def __init__(self, options):
        self.options = options

    def align(self, pair, layer_map, probe):
        missing = pair.target.anatomy.width - pair.source.anatomy.width

        def to_target(states):  # [tokens, D_src] -> [tokens, D_tgt]
            return pad(states - states.mean(dim=0), (0, missing))

        maps = {link.target: to_target for link in layer_map.links}
        states = TargetStates(maps, layer_map, self.options.interface)
        return Alignment("mean-shift", layer_map, target_states=states)


STRATEGY = Strategy(
    "mean-shift", Choice("depth"), Choice("mean-shift"), Choice("all-blocks"), summary="example"
)


@hookimpl
def pktkit_latent_aligners():
    return [Component("mean-shift", "mean_shift:MeanShift", "centre, then pad or cut")]


@hookimpl
def pktkit_strategies():
    return [Component("mean-shift", "mean_shift:STRATEGY")]

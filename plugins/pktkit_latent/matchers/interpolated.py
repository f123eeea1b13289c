"""Pairing by relative depth, with the source's state interpolated between two blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.values import LayerLink
from pktkit_latent.matchers.depth import linked_by
from pktkit_latent.matchers.restriction import RestrictionOptions

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.values import LayerMap


def interpolated_link(target: int, source_blocks: int, target_blocks: int) -> LayerLink:
    """Return the source blocks around a target block's relative depth, all 0-based.

    For 1-based target layer k (arXiv 2510.24208 v1): `u = L_src · k / L_tgt`,
    `a = max(1, min(floor(u), L_src − 1))`, `λ = clip(u − a, 0, 1)`; the state is
    `(1 − λ) h_a + λ h_{a+1}`. Blocks of weight 0 are left out, so that where u is an integer the
    link is the one by depth. The weights are exact until the last division.
    """
    reached = source_blocks * (target + 1)
    lower = max(1, min(reached // target_blocks, source_blocks - 1))
    upper_weight = min(max(reached - lower * target_blocks, 0), target_blocks) / target_blocks
    if upper_weight == 0 or source_blocks == 1:
        return LayerLink(target, (lower - 1,))
    if upper_weight == 1:
        return LayerLink(target, (lower,))
    return LayerLink(target, (lower - 1, lower), (1 - upper_weight, upper_weight))


@attrs.frozen
class InterpolatedOptions(RestrictionOptions):
    """Settings of interpolated depth matching."""


class InterpolatedMatcher:
    """Pairs every target block with the two source blocks around its relative depth."""

    Options = InterpolatedOptions
    capabilities = Capabilities(
        any_pair=True,
        reads_depths=True,
        monotone=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: InterpolatedOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link of one or two source blocks per target block; reads only the depths.

        Raises:
            UsageError: the restriction names a block that the target lacks, or leaves none.
        """
        return linked_by(interpolated_link, pair, self.options, "interpolated")

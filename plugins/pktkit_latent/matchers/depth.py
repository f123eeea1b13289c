"""Pairing by relative depth, as published."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.values import LayerLink, LayerMap
from pktkit_latent.matchers.restriction import RestrictionOptions, linked_blocks

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe


def paired_source(target: int, source_blocks: int, target_blocks: int) -> int:
    """Return the source block of a target block, both 0-based.

    The published rule, for 1-based target layer k: `l(k) = max(1, floor(L_src / L_tgt · k))`
    (arXiv 2510.24208). Integer arithmetic, so that no rounding moves a layer.
    """
    return max(1, source_blocks * (target + 1) // target_blocks) - 1


def sources_by_depth(source_blocks: int, target_blocks: int) -> tuple[int, ...]:
    """Return the paired source block of every target block, 0-based."""
    return tuple(paired_source(t, source_blocks, target_blocks) for t in range(target_blocks))


def depth_link(target: int, source_blocks: int, target_blocks: int) -> LayerLink:
    """Return the link of a target block to its paired source block, all 0-based."""
    return LayerLink(target, (paired_source(target, source_blocks, target_blocks),))


def linked_by(
    rule: Callable[[int, int, int], LayerLink],
    pair: ModelPair,
    restriction: RestrictionOptions,
    method: str,
) -> LayerMap:
    """Return the map that a rule gives from the two depths alone, one link per target block.

    Arguments:
        rule: called with target block, depth of the source and depth of the target.
        pair: the models.
        restriction: target blocks to link.
        method: name of the matcher.

    Raises:
        UsageError: the restriction names a block that the target lacks, or leaves none.
    """
    depths = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
    links = [rule(target, *depths) for target in linked_blocks(restriction, depths[1])]
    return LayerMap(links, *depths, method)


def first_reaching(source: int, source_blocks: int, target_blocks: int) -> int:
    """Return the target block a source block is paired with, both 0-based.

    The smallest target block whose own pair is `source` or deeper, or the last block.
    """
    for target, paired in enumerate(sources_by_depth(source_blocks, target_blocks)):
        if paired >= source:
            return target
    return target_blocks - 1


@attrs.frozen
class DepthOptions(RestrictionOptions):
    """Settings of depth matching."""


class DepthMatcher:
    """Pairs every target block with the source block at the same relative depth."""

    Options = DepthOptions
    capabilities = Capabilities(
        any_pair=True,
        reads_depths=True,
        monotone=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: DepthOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per target block; reads only the two depths.

        Raises:
            UsageError: the restriction names a block that the target lacks, or leaves none.
        """
        return linked_by(depth_link, pair, self.options, "depth")

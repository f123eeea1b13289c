"""Pairing of the source blocks whose outputs carry most Fisher information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import structlog

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.values import LayerLink, LayerMap
from pktkit_latent.matchers.depth import sources_by_depth
from pktkit_latent.matchers.restriction import RestrictionOptions, linked_blocks
from pktkit_latent.matchers.saturation import saturation

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe

log = structlog.get_logger(__name__)


def largest(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the indices of the `count` largest scores, ascending; ties keep lower indices."""
    ranked = sorted(range(len(scores)), key=lambda block: (-scores[block], block))
    return tuple(sorted(ranked[:count]))


@attrs.frozen
class FisherOptions(RestrictionOptions):
    """Settings of Fisher matching."""

    split: str = option("extract", "Split on whose answers the information is taken.")


class FisherMatcher:
    """Keeps the source blocks with the most Fisher information, in order, one per target block.

    The score of a block is the trace of the empirical Fisher information of the answer loss with
    respect to gates at 1, one on every entry of the block's output: `Σ (activation · gradient)²`
    over items, tokens and channels, each item's loss differentiated on its own. Gradient ×
    activation adds the same products with their signs, so that tokens which push a block's
    contribution up and down cancel, and a block that matters to every token in opposite ways
    scores zero; squares cannot cancel. One gate per channel for all tokens (Theis et al., arXiv
    1801.05787, for pruning) would cancel between tokens as well.
    """

    Options = FisherOptions
    capabilities = Capabilities(
        any_pair=True,
        monotone=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: FisherOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per target block: the i-th kept source block with target block i.

        A source with fewer blocks than the target has nothing to choose from, and neither has
        one whose gradients are all zero: blocks are then paired by depth, which for equal depths
        is the same map, and method and note say so.

        Raises:
            UsageError: the restriction names a block that the target lacks, or leaves none.
            NonFiniteError: the source's loss or gradients are not finite.
        """
        source_blocks, target_blocks = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
        linked = linked_blocks(self.options, target_blocks)
        scores = probe.fisher(self.options.split).double().sum(dim=0).tolist()
        obstacle = _obstacle(scores, target_blocks)
        if obstacle:
            method, note = "fisher (fallback: depth)", f"{obstacle}; blocks pair by depth"
            sources = sources_by_depth(source_blocks, target_blocks)
        else:
            method, note = "fisher", saturation(probe, self.options.split)
            sources = largest(scores, target_blocks)
        if note:
            log.warning(note)
        return LayerMap(
            links=[LayerLink(target, (sources[target],)) for target in linked],
            source_blocks=source_blocks,
            target_blocks=target_blocks,
            method=method,
            scores=scores,
            note=note,
        )


def _obstacle(scores: Sequence[float], target_blocks: int) -> str:
    """Say why source blocks cannot be ranked; empty if they can."""
    if len(scores) < target_blocks:
        return (
            f"the source has {len(scores)} blocks for {target_blocks} of the target, so that "
            "none can be left out"
        )
    if not any(scores):
        return "the source's gradients are zero on every item"
    return ""

"""Layer matchers of the activation-based method: by depth, and by attribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import structlog

from pktkit.options import option
from pktkit.values import LayerLink, LayerMap

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe

log = structlog.get_logger(__name__)

SATURATED_LOSS = 0.01
"""Mean answer loss (nats) under which a source's gradients say little about its layers."""


def paired_source(target: int, source_blocks: int, target_blocks: int) -> int:
    """Return the source block of a target block, both 0-based.

    The published rule, for 1-based target layer k: `l(k) = max(1, floor(L_src / L_tgt · k))`
    (arXiv 2510.24208). Integer arithmetic, so that no rounding moves a layer.
    """
    return max(1, source_blocks * (target + 1) // target_blocks) - 1


def first_reaching(source: int, source_blocks: int, target_blocks: int) -> int:
    """Return the target block a source block is paired with, both 0-based.

    The smallest target block whose own pair is `source` or deeper, or the last block.
    """
    for target in range(target_blocks):
        if paired_source(target, source_blocks, target_blocks) >= source:
            return target
    return target_blocks - 1


@attrs.frozen
class DepthOptions:
    """Depth matching has no settings."""


class DepthMatcher:
    """Pairs every target block with the source block at the same relative depth."""

    Options = DepthOptions

    def __init__(self, options: DepthOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per target block; reads only the two depths."""
        source_blocks = pair.source.anatomy.n_blocks
        target_blocks = pair.target.anatomy.n_blocks
        return LayerMap(
            links=[
                LayerLink(target, (paired_source(target, source_blocks, target_blocks),))
                for target in range(target_blocks)
            ],
            source_blocks=source_blocks,
            target_blocks=target_blocks,
            method="depth",
        )


@attrs.frozen
class AttributionOptions:
    """Settings of attribution matching."""

    split: str = option("extract", "Split whose loss is attributed to the source's layers.")


class AttributionMatcher:
    """Pairs the source's critical layer, by gradient × activation, with one target block."""

    Options = AttributionOptions

    def __init__(self, options: AttributionOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return a single link: the critical source block and its target block.

        The critical block has the largest absolute gradient × activation, summed over tokens,
        channels and items of the split. On a source that is near perfect the gradients are
        noise; the map then carries a note.
        """
        scores = probe.attribution(self.options.split).double().sum(dim=0)
        loss = float(probe.source_loss(self.options.split).mean())
        source_blocks, target_blocks = len(scores), pair.target.anatomy.n_blocks
        critical = int(scores.abs().argmax())
        note = ""
        if loss < SATURATED_LOSS:
            note = (
                f"the source's mean loss is {loss:.4f} nats on split '{self.options.split}': "
                "its gradients are close to noise, and so is the choice of layer"
            )
            log.warning(note)
        link = LayerLink(first_reaching(critical, source_blocks, target_blocks), (critical,))
        return LayerMap(
            links=[link],
            source_blocks=source_blocks,
            target_blocks=target_blocks,
            method="attribution",
            scores=scores.tolist(),
            note=note,
        )

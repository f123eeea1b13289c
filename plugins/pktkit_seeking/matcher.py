"""Layer matching by sensitivity (arXiv 2310.11451, section 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError
from pktkit.options import option
from pktkit.values import LayerLink, LayerMap

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect


def block_scores(anatomy: Anatomy, sensitivities: Mapping[str, Tensor]) -> tuple[float, ...]:
    """Return `Σ S(w)` over every parameter of each block, norms and biases included.

    Arguments:
        anatomy: of the model the sensitivities belong to.
        sensitivities: one tensor per parameter name.

    Raises:
        NonFiniteError: a block's score is not finite.
    """
    scores = []
    for block in range(anatomy.n_blocks):
        names = anatomy.block_parameters(block)
        score = sum(float(sensitivities[name].sum(dtype=torch.float64)) for name in names)
        if not math.isfinite(score):
            raise NonFiniteError(
                f"the sensitivity of source block {block} is {score:g}. Try --dtype float32."
            )
        scores.append(score)
    return tuple(scores)


def most_sensitive(scores: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the indices of the `count` largest scores, ascending; ties keep lower indices."""
    ranked = sorted(range(len(scores)), key=lambda block: (-scores[block], block))
    return tuple(sorted(ranked[:count]))


def reused(source_blocks: int, target_blocks: int) -> tuple[int, ...]:
    """Return the source block of every block of a deeper target, in proportion to depth."""
    return tuple(target * source_blocks // target_blocks for target in range(target_blocks))


@attrs.frozen
class SensitivityOptions:
    """Settings of sensitivity matching."""

    split: str = option("extract", "Split whose answers the sensitivities are taken on.")


class SensitivityMatcher:
    """Keeps as many of the source's most sensitive blocks as the target has, in their order.

    The i-th kept source block is paired with target block i. Of a source with fewer blocks than
    the target all are kept and reused by depth: target block i is paired with source block
    `floor(i · L_src / L_tgt)`. The published method needs a source at least as deep.
    """

    Options = SensitivityOptions
    capabilities = Capabilities(
        source_copies=2.0,
        monotone=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: SensitivityOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a source whose weights are not at hand."""
        prospect.require_weights("sensitivity of the source's weights")

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per kept source block.

        Raises:
            NonFiniteError: a block's sensitivity is not finite.
        """
        target_blocks = pair.target.anatomy.n_blocks
        scores = block_scores(pair.source.anatomy, probe.sensitivities(self.options.split))
        kept = most_sensitive(scores, target_blocks)
        note = ""
        if len(kept) < target_blocks:
            note = (
                f"the source has {len(scores)} blocks for {target_blocks} of the target: each is "
                "used more than once, by depth"
            )
            kept = reused(len(scores), target_blocks)
        return LayerMap(
            links=[LayerLink(target, (source,)) for target, source in enumerate(kept)],
            source_blocks=len(scores),
            target_blocks=target_blocks,
            method="sensitivity",
            scores=scores,
            note=note,
        )

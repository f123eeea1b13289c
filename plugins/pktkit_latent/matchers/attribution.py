"""Pairing of the source's critical layer, by gradient × activation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import structlog
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.options import option
from pktkit.values import LayerLink, LayerMap
from pktkit_latent.matchers.depth import DepthMatcher, DepthOptions, first_reaching
from pktkit_latent.matchers.saturation import saturation
from pktkit_latent.matchers.stability import AttributionStability, attribution_stability

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe

log = structlog.get_logger(__name__)

UNSTABLE_SHARE = 0.5
"""Share of resamples that must agree on the critical block, or the map says that they do not."""


@attrs.frozen
class AttributionOptions:
    """Settings of attribution matching."""

    split: str = option("extract", "Split whose loss is attributed to the source's layers.")
    fallback: str = option(
        "depth",
        "On a source near perfect on the split: pair all blocks by depth, or go on regardless.",
        choices=("depth", "none"),
    )
    resamples: int = option(
        200, "Resamples of the items that test the choice.", validator=validators.ge(1)
    )
    seed: int | None = option(None, "Of the resamples; null takes the run's seed.")


class AttributionMatcher:
    """Pairs the source's critical layer, by gradient × activation, with one target block."""

    Options = AttributionOptions
    capabilities = Capabilities(
        any_pair=True,
        monotone=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: AttributionOptions) -> None:
        self.options = options

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return a single link: the critical source block and its target block.

        The critical block has the largest absolute gradient × activation, summed over tokens,
        channels and items of the split (arXiv 2510.24208 v1). On a source that is near
        perfect the sums are close to noise: then the map is depth's, under the name
        `attribution (fallback: depth)`, unless `fallback` is `none`. Diagnostics hold the
        `AttributionStability` as a mapping; a choice that most resamples do not share is noted
        and warned of.

        Raises:
            NonFiniteError: the source's loss or gradients are not finite.
        """
        items = probe.attribution(self.options.split).double().cpu()
        stability = attribution_stability(
            items.numpy(), self.options.resamples, self.options.seed or 0
        )
        degenerate = saturation(probe, self.options.split)
        if degenerate and self.options.fallback == "depth":
            chosen = DepthMatcher(DepthOptions()).match(pair, probe)
            method, note = "attribution (fallback: depth)", f"{degenerate}; blocks pair by depth"
        else:
            chosen = _critical_pair(pair, stability.critical)
            method = "attribution"
            note = "; ".join(filter(None, [degenerate, _instability(stability)]))
        if note:
            log.warning(note)
        return attrs.evolve(
            chosen,
            method=method,
            scores=items.sum(dim=0).tolist(),
            note=note,
            diagnostics={"stability": attrs.asdict(stability)},
        )


def _critical_pair(pair: ModelPair, critical: int) -> LayerMap:
    source_blocks, target_blocks = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
    link = LayerLink(first_reaching(critical, source_blocks, target_blocks), (critical,))
    return LayerMap([link], source_blocks, target_blocks, "attribution")


def _instability(stability: AttributionStability) -> str:
    """Say that the resamples disagree; empty if most of them agree."""
    if stability.agreement >= UNSTABLE_SHARE:
        return ""
    rivals = [(share, -block) for block, share in enumerate(stability.wins)]
    del rivals[stability.critical]
    share, negated = max(rivals)
    return (
        f"source block {stability.critical} is critical in {stability.agreement:.0%} of "
        f"{stability.resamples} resamples of {stability.items} items, block {-negated} in "
        f"{share:.0%}: the choice of layer is unstable; more rows in the split would settle it"
    )

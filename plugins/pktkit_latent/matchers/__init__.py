"""Layer matchers of the activation-based method, one module per way of pairing blocks."""

from pktkit_latent.matchers.affinity import AffinityMatcher, AffinityOptions
from pktkit_latent.matchers.assignment import monotone_assignment
from pktkit_latent.matchers.attribution import AttributionMatcher, AttributionOptions
from pktkit_latent.matchers.depth import (
    DepthMatcher,
    DepthOptions,
    first_reaching,
    paired_source,
    sources_by_depth,
)
from pktkit_latent.matchers.fisher import FisherMatcher, FisherOptions
from pktkit_latent.matchers.interpolated import (
    InterpolatedMatcher,
    InterpolatedOptions,
    interpolated_link,
)
from pktkit_latent.matchers.restriction import RestrictionOptions, linked_blocks
from pktkit_latent.matchers.saturation import SATURATED_LOSS
from pktkit_latent.matchers.stability import AttributionStability, attribution_stability

__all__ = [
    "SATURATED_LOSS",
    "AffinityMatcher",
    "AffinityOptions",
    "AttributionMatcher",
    "AttributionOptions",
    "AttributionStability",
    "DepthMatcher",
    "DepthOptions",
    "FisherMatcher",
    "FisherOptions",
    "InterpolatedMatcher",
    "InterpolatedOptions",
    "RestrictionOptions",
    "attribution_stability",
    "first_reaching",
    "interpolated_link",
    "linked_blocks",
    "monotone_assignment",
    "paired_source",
    "sources_by_depth",
]

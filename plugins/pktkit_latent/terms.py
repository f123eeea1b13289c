"""Layer terms by name: a distance between states, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from pktkit_latent.distances import (
    Distance,
    centred_cosine_distance,
    cka_distance,
    cosine_distance,
    mse_distance,
    relation_distance,
)
from pktkit_latent.fisher import fisher_distance, scaled_fisher_distance

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class LayerTerm:
    """A layer term and what it needs.

    Arguments:
        open: given the target's LM head `[V, D]` without padded rows, returns the distance.
        paired: compares state by state, in one space, and takes a weight per token.
        in_target_space: reads states through the target's LM head.
        per_token: looks at each token for itself, and is a mean over them.
    """

    open: Callable[[Tensor], Distance]
    paired: bool = True
    in_target_space: bool = False
    per_token: bool = False


LAYER_TERMS: Mapping[str, LayerTerm] = {
    "cosine": LayerTerm(lambda head: cosine_distance, per_token=True),
    "centred-cosine": LayerTerm(lambda head: centred_cosine_distance),
    "mse": LayerTerm(lambda head: mse_distance),
    "fisher": LayerTerm(fisher_distance, in_target_space=True, per_token=True),
    "fisher-scaled": LayerTerm(scaled_fisher_distance, in_target_space=True),
    "relation": LayerTerm(lambda head: relation_distance, paired=False),
    "cka": LayerTerm(lambda head: cka_distance, paired=False),
}
"""Layer terms by the name used in recipes."""

"""Placebos of aligned states: what is left when the map, or the source, means nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.state_maps import AffineMap

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.values import StateMap, TargetStates

RANDOM_MAP = "random-map"
SHUFFLED_ITEMS = "shuffled-items"
PLACEBOS = ("none", RANDOM_MAP, SHUFFLED_ITEMS)

_SEED_STRIDE = 1_000_003


def placebo_option() -> Any:
    """Declare the option `placebo` of an aligner whose maps are matrices."""
    return option(
        "none",
        "Control: a meaningless map of equal norm, or the source states of other items.",
        choices=PLACEBOS,
    )


def mapless_placebo_option(aligner: str) -> Any:
    """Declare the option `placebo` of an aligner that has no map."""

    def refuse(instance: Any, attribute: Any, value: str) -> None:
        if value == RANDOM_MAP:
            raise UsageError(
                f"aligner '{aligner}' compares in the source's own space and has no map that "
                f"could be replaced by a random one. Its placebo is '{SHUFFLED_ITEMS}'."
            )

    return option(
        "none",
        "Control: the source states of other items. There is no map to randomise.",
        choices=PLACEBOS,
        validator=refuse,
    )


def seed_option() -> Any:
    """Declare the option `seed` of the random map."""
    return option(None, "Of the random map; null takes the run's seed.")


def with_placebo(states: TargetStates, placebo: str, seed: int | None) -> TargetStates:
    """Return target states with one part of their meaning taken away.

    Arguments:
        states: as aligned.
        placebo: one of `PLACEBOS`.
        seed: of the random maps; None for 0.
    """
    if placebo == RANDOM_MAP:
        return attrs.evolve(states, maps=random_maps(states.maps, seed or 0))
    return attrs.evolve(states, shuffle_items=placebo == SHUFFLED_ITEMS)


def random_maps(maps: dict[int, StateMap] | Any, seed: int) -> dict[int, StateMap]:
    """Replace the matrix of every affine map by a random one of equal norm.

    Centre and offset stay, so that the placebo keeps the target's mean. Blocks that share a map
    share its replacement; other blocks get draws of their own.
    """
    drawn: dict[int, AffineMap] = {}
    random: dict[int, StateMap] = {}
    for block in sorted(maps):
        given = maps[block]
        if not isinstance(given, AffineMap):
            raise UsageError(f"target block {block} has no matrix that could be randomised.")
        if id(given) not in drawn:
            matrix = random_like(given.matrix, seed + _SEED_STRIDE * len(drawn))
            drawn[id(given)] = attrs.evolve(given, matrix=matrix)
        random[block] = drawn[id(given)]
    return random


def random_like(matrix: Tensor, seed: int) -> Tensor:
    """Return a Gaussian matrix of the same shape and Frobenius norm: a map without meaning."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(matrix.shape, dtype=torch.float64, generator=generator).to(matrix.device)
    return draw * (matrix.norm() / draw.norm())

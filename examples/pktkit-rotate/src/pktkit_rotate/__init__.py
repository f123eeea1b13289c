"""A pktkit plugin: rotations that a few odd tokens do not turn.

Only descriptors live here, so that `pktkit plugins list` imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

PKTKIT_API = 1

ROTATED = Path(__file__).parent / "rotated.yaml"


@hookimpl
def pktkit_latent_aligners() -> list[Component]:
    """Register the aligner."""
    return [
        Component(
            "resistant-procrustes",
            "pktkit_rotate.aligner:ResistantProcrustes",
            "a centred rotation per block, fitted so that outlying tokens count less",
            "Verboon and Heiser 1992",
        )
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the recipe that mixes it with pktkit's own matcher and injector."""
    return [
        Component(
            "rotated",
            "pktkit_rotate:ROTATED",
            "all blocks steered by resistant rotations of the source blocks most alike",
        )
    ]

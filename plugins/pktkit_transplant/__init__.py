"""Change of basis: source blocks rewritten in the target's coordinates, without training."""

from __future__ import annotations

from pktkit.components import Component
from pktkit.hookspecs import hookimpl


@hookimpl
def pktkit_knowledge_injectors() -> list[Component]:
    """Register the transplant."""
    return [
        Component(
            "transplant",
            "pktkit_transplant.injector:Transplant",
            "rewrites target blocks as source blocks through state maps, without training",
        )
    ]


@hookimpl
def pktkit_strategies() -> list[Component]:
    """Register the recipe."""
    return [
        Component(
            "transplant",
            "pktkit_transplant.strategies:TRANSPLANT",
            "source blocks in the target's coordinates by fitted state maps, without training",
        )
    ]

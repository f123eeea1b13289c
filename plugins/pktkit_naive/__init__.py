"""Built-in pktkit plugin: the naive baseline, source weights truncated into the target."""

from __future__ import annotations

from collections.abc import Iterable

from pktkit.components import Component
from pktkit.hookspecs import hookimpl


@hookimpl
def pktkit_latent_aligners() -> Iterable[Component]:
    """Register truncation."""
    return [
        Component(
            name="truncate",
            path="pktkit_naive.aligner:Truncate",
            summary="cuts the source's parameters to the target's shape from the top left",
        )
    ]


@hookimpl
def pktkit_knowledge_injectors() -> Iterable[Component]:
    """Register overwriting."""
    return [
        Component(
            name="overwrite",
            path="pktkit_naive.injector:Overwrite",
            summary="replaces target parameters, wholly or in part, without training",
        )
    ]


@hookimpl
def pktkit_strategies() -> Iterable[Component]:
    """Register the strategy `naive`."""
    return [
        Component(
            name="naive",
            path="pktkit_naive.strategies:NAIVE",
            summary="overwrites the target with the source's parameters, truncated",
        )
    ]

"""The strategy `naive`: what any method must beat."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

NAIVE = Strategy(
    name="naive",
    matcher=Choice("depth"),
    aligner=Choice("truncate"),
    injector=Choice("overwrite"),
    summary="overwrites the target with the source's parameters, truncated",
)

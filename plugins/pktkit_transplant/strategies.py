"""The strategy `transplant`."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

TRANSPLANT = Strategy(
    name="transplant",
    matcher=Choice("depth"),
    aligner=Choice("ridge", {"interface": "residual"}),
    injector=Choice("transplant"),
    summary="source blocks in the target's coordinates by fitted state maps, without training",
)

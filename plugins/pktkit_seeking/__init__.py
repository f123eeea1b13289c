"""Built-in pktkit plugin: parameters extracted by sensitivity (Seeking, arXiv 2310.11451)."""

from __future__ import annotations

from collections.abc import Iterable

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

REFERENCE = "arXiv 2310.11451"


@hookimpl
def pktkit_layer_matchers() -> Iterable[Component]:
    """Register the sensitivity matcher."""
    return [
        Component(
            name="sensitivity",
            path="pktkit_seeking.matcher:SensitivityMatcher",
            summary="keeps the source's most sensitive blocks, in order",
            reference=f"{REFERENCE}, section 3",
        )
    ]


@hookimpl
def pktkit_latent_aligners() -> Iterable[Component]:
    """Register the sub-matrix aligner and the target's own directions."""
    return [
        Component(
            name="sensitive-submatrix",
            path="pktkit_seeking.aligner:SensitiveSubmatrix",
            summary="cuts the most sensitive window of each source matrix, as a low-rank update",
            reference=f"{REFERENCE}, section 3",
        ),
        Component(
            name="principal",
            path="pktkit_seeking.principal:PrincipalDirections",
            summary="the target's own leading singular directions, as low-rank updates",
            reference="arXiv 2404.02948, section 3",
        ),
    ]


@hookimpl
def pktkit_knowledge_injectors() -> Iterable[Component]:
    """Register the LoRA start."""
    return [
        Component(
            name="lora-start",
            path="pktkit_seeking.injector:LoraStart",
            summary="fine-tunes a LoRA adapter that starts at the extracted parameters",
            reference=f"{REFERENCE}, section 3",
        )
    ]


@hookimpl
def pktkit_strategies() -> Iterable[Component]:
    """Register the strategies `seeking` and `pissa`."""
    return [
        Component(
            name="seeking",
            path="pktkit_seeking.strategies:SEEKING",
            summary="sensitive sub-matrices of the source as the starting point of LoRA",
            reference=REFERENCE,
        ),
        Component(
            name="pissa",
            path="pktkit_seeking.strategies:PISSA",
            summary="the target's own principal directions as the starting point of LoRA",
            reference="arXiv 2404.02948",
        ),
    ]

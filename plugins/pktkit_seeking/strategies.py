"""The strategy `seeking`."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

SEEKING = Strategy(
    name="seeking",
    matcher=Choice("sensitivity"),
    aligner=Choice("sensitive-submatrix"),
    injector=Choice("lora-start"),
    summary="sensitive sub-matrices of the source as the starting point of LoRA",
    reference="arXiv 2310.11451",
)

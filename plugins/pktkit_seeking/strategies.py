"""The strategies `seeking` and `pissa`: one adapter, two origins of its start."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

SEEKING = Strategy(
    name="seeking",
    matcher=Choice("sensitivity"),
    aligner=Choice("sensitive-submatrix", {"rank": 16, "window": "block"}),
    injector=Choice("lora-start", {"alpha": 16.0, "dropout": 0.05, "subtract": "BA"}),
    summary="sensitive sub-matrices of the source as the starting point of LoRA",
    reference="arXiv 2310.11451",
)

PISSA = Strategy(
    name="pissa",
    aligner=Choice("principal", {"rank": 16, "sigma": "both"}),
    injector=Choice(
        "lora-start", {"alpha": 16.0, "dropout": 0.0, "subtract": "BA", "start": "product"}
    ),
    summary="the target's own principal directions as the starting point of LoRA",
    reference="arXiv 2404.02948",
)

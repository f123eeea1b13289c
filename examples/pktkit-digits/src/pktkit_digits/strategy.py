"""`steer-early`: the source shows the way at first, then the labels alone decide."""

from __future__ import annotations

from pktkit.components import Choice, Strategy

STEER_EARLY = Strategy(
    name="steer-early",
    matcher=Choice("depth"),
    aligner=Choice("semantic", {"map": "lens", "interface": "residual"}),
    injector=Choice("all-blocks", {"layer_schedule": "linear", "layer_until": 0.5}),
    summary="latent steering that fades out over the first half of the run",
)

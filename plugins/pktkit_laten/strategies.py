"""The strategies `laten` and `laten-released`."""

from __future__ import annotations

from typing import Any

from pktkit.components import Choice, Strategy

REFERENCE = "arXiv 2505.14436"
RELEASED: dict[str, Any] = {"lens": "released", "attn_pos": "last_key"}

LATEN = Strategy(
    name="laten",
    matcher=Choice("neuron-attribution"),
    aligner=Choice("hypernetwork"),
    injector=Choice("add-once"),
    summary="the source's strongest neurons, mapped by a hypernetwork, added once",
    reference=REFERENCE,
)

LATEN_RELEASED = Strategy(
    name="laten-released",
    matcher=Choice("neuron-attribution", RELEASED),
    aligner=Choice("hypernetwork", RELEASED),
    injector=Choice("add-once"),
    summary="laten with the attribution of the released code",
    reference=REFERENCE,
)

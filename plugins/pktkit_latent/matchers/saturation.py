"""When a source is too good at a split for its gradients to say anything about its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pktkit.probe import Probe

SATURATED_LOSS = 0.01
"""Mean answer loss (nats) under which a source's gradients say little about its layers."""


def saturation(probe: Probe, split: str) -> str:
    """Return what is wrong with the source's gradients on a split; empty if nothing is."""
    loss = float(probe.source_loss(split).double().mean())
    if loss >= SATURATED_LOSS:
        return ""
    return (
        f"the source's mean loss is {loss:.4f} nats on split '{split}', below {SATURATED_LOSS:g}: "
        "its gradients say little about its layers"
    )

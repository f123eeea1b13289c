"""Where a model lives: names of devices, and whether they can be used."""

from __future__ import annotations

import torch

from pktkit.checkpoints.library import short_reason
from pktkit.errors import UsageError

AUTO = "auto"


def resolve_device(device: str) -> str:
    """Return a torch device; `auto` is the first GPU, else Apple's, else the CPU."""
    if device != AUTO:
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def usable_device(device: str) -> torch.device:
    """Return a device on which a tensor could be made.

    Raises:
        UsageError: there is no such device here; lists those that are.
    """
    try:
        place = torch.device(resolve_device(device))
        torch.empty(0, device=place)
    except Exception as error:
        raise UsageError(
            f"device '{device}' cannot be used: {short_reason(error)}. Here: "
            f"{', '.join(present_devices())}."
        ) from error
    return place


def present_devices() -> list[str]:
    """Return the devices of this machine, as they are typed."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]

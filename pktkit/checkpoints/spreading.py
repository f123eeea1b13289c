"""A source laid over all devices of this machine, and over host memory where they are full.

Embedding, final norm and LM head lie on the first device, since maps read them. Blocks follow,
device after device; those that no device holds wait in host memory or on disk and are fetched
when they run (accelerate's hooks).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pktkit.checkpoints.outline import empty_model
from pktkit.distributed.processes import launched
from pktkit.families import Anatomy

if TYPE_CHECKING:
    from torch import nn

SPREAD = "spread"
"""What is typed in the place of a device."""

ROOM = 0.8
"""Share of a device's free memory that weights may take; the rest is for activations."""

Place = int | str


def spread_map(directory: Path, dtype: str) -> dict[str, Place]:
    """Return where each part of a model goes, as transformers' `device_map` takes it.

    Arguments:
        directory: a checked checkpoint.
        dtype: what its weights are loaded in.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    return placed(Anatomy.of(empty_model(config, dtype)), memory())


def memory() -> dict[Place, int]:
    """Return the bytes that weights may take in each place, devices first.

    Of several processes on this machine each has its own device and its share of host memory.
    """
    from accelerate.utils import get_max_memory

    found: dict[Place, int] = dict(get_max_memory())
    if launched() > 1:
        own = int(os.environ.get("LOCAL_RANK", "0"))
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        found = {own: found[own]} | {"cpu": found["cpu"] // neighbours} if own in found else found
    return {place: int(size * ROOM) for place, size in found.items()}


def placed(anatomy: Anatomy, room: Mapping[Place, int]) -> dict[str, Place]:
    """Place a model's parts: blocks evenly over the devices, the rest on the first.

    Arguments:
        anatomy: of the model, which may have no weights yet.
        room: bytes by place, devices first; what fits nowhere goes to disk.
    """
    size = max(map(_size, anatomy.blocks))
    ends = _size(anatomy.model) - sum(map(_size, anatomy.blocks))
    places = list(room)
    devices = [place for place in places if place != "cpu"] or places
    hold = {place: max(0, room[place] - ends * (place == places[0])) // size for place in places}
    parts: dict[str, Place] = dict.fromkeys(_outside_blocks(anatomy), places[0])
    left, number = anatomy.n_blocks, 0
    for place in [*places, "disk"]:
        later = devices[devices.index(place) + 1 :] if place in devices else []
        # an even share, or more where the devices after this one cannot hold the rest
        wanted = max(-(-left // (len(later) + 1)), left - sum(hold[other] for other in later))
        for _ in range(min(wanted, hold.get(place, left))):
            parts[f"{anatomy.layout.blocks}.{number}"] = place
            left, number = left - 1, number + 1
    return parts


def _outside_blocks(anatomy: Anatomy) -> Sequence[str]:
    """Name the modules that hold no block, as far up as can be."""
    trunk, _, last = anatomy.layout.blocks.rpartition(".")
    root = trunk.partition(".")[0]
    outside = [name for name, _ in anatomy.model.named_children() if name != root]
    inside = anatomy.model.get_submodule(trunk)
    return [*outside, *(f"{trunk}.{name}" for name, _ in inside.named_children() if name != last)]


def _size(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())

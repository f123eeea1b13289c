"""What this machine has left: memory, of devices and host, and disk."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
_UNLIMITED = 1 << 60
_SIDE = 768
_TRIAL_SECONDS = 0.2


def free_host() -> int:
    """Return the bytes of memory left: what the system has, within the container's limit."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_within_limits(CGROUP)])


def free_device(device: str) -> int | None:
    """Return the bytes left on a torch device; None where it does not say."""
    if device.startswith("cpu"):
        return free_host()
    import torch

    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info(torch.device(device))[0])


def free_disk(path: Path) -> int:
    """Return the bytes left where a path is, or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def matmul_rate(device: str, dtype: str) -> float:
    """Measure the operations per second of a matrix product on a device, in a fifth of a second."""
    import torch

    kind = getattr(torch, dtype, torch.float32)
    a = torch.ones(_SIDE, _SIDE, device=device, dtype=kind)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < _TRIAL_SECONDS:
        a @ a
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        done += 1
    return done * 2 * _SIDE**3 / (time.perf_counter() - start)


def _within_limits(root: Path) -> Iterator[int]:
    """Yield what control groups leave, caches of files not in use included."""
    for limit, used in _LIMITS:
        try:
            most = (root / limit).read_text(encoding="ascii").strip()
            taken = int((root / used).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if most != "max" and int(most) < _UNLIMITED:
            yield max(0, int(most) - taken + _cached(root / limit))


def _cached(limit: Path) -> int:
    """Return the bytes of a group's cached files, which give way when memory is needed."""
    try:
        text = (limit.parent / "memory.stat").read_text(encoding="ascii")
    except OSError:
        return 0
    entries = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return int(entries.get("inactive_file", entries.get("total_inactive_file", 0)))

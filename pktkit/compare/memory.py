"""Peak memory of one cell, in a process that runs many."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
INTERVAL = 0.02
"""Seconds between two looks at the memory, where the system keeps no peak that can be reset."""


class PeakMemory:
    """Measures the peak memory of what runs inside. Use as a context manager.

    On accelerators it is what torch allocated there. On the CPU it is the resident memory of
    the process: memory that earlier cells freed is given back to the system first, then Linux is
    told to start its high-water mark anew (`/proc/self/clear_refs`); other systems are asked for
    the memory every 20 ms. What a process holds throughout, such as both models, is part of it.

    Arguments:
        devices: torch devices of the models.
    """

    def __init__(self, devices: Sequence[str]) -> None:
        self.bytes = 0
        self._gpus = {device for device in devices if device.startswith("cuda")}
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._gpus:
            import torch

            for gpu in self._gpus:
                torch.cuda.reset_peak_memory_stats(gpu)
            return self
        _give_back()
        if not _reset():
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._gpus:
            import torch

            self.bytes = sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in self._gpus)
        elif self._thread is None:
            self.bytes = _high_water()
        else:
            self._done.set()
            self._thread.join()

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(INTERVAL):
                return


def _give_back() -> None:
    """Return freed memory to the system, so that it does not count for the next cell."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _reset() -> bool:
    """Start the process' high-water mark anew; False where that cannot be done."""
    try:
        RESET.write_text("5", encoding="ascii")
        return _high_water() > 0
    except OSError:
        return False


def _high_water() -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0

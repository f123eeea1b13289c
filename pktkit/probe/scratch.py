"""Large sums that need not fit into memory: zeros mapped from a file without a name."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from torch import Tensor

log = structlog.get_logger(__name__)

_ZEROS = bytes(1 << 20)


def zeros(shapes: Mapping[str, tuple[int, ...]], directory: Path | None) -> dict[str, Tensor]:
    """Return writable fp32 zeros by name.

    Arguments:
        shapes: shape by name.
        directory: where a file may hold them; its pages leave memory when that runs short, and
            the file is gone with the last tensor. None keeps them in memory; so does, with a
            warning, a directory without room.
    """
    import torch

    if directory is not None:
        try:
            return _mapped(shapes, directory)
        except OSError as error:
            log.warning("sums are kept in memory, not on disk", reason=str(error))
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _mapped(shapes: Mapping[str, tuple[int, ...]], directory: Path) -> dict[str, Tensor]:
    import numpy
    import torch

    counts = [math.prod(shape) for shape in shapes.values()]
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        _reserve(file, max(4 * sum(counts), 1))
        flat = torch.from_numpy(numpy.memmap(file, numpy.float32, "r+", shape=(sum(counts),)))
    parts = flat.split(counts)
    return {
        name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def _reserve(file: IO[bytes], size: int) -> None:
    """Make a file of zeros whose blocks exist; writing to a hole on a full disk would crash."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, len(_ZEROS)):
        file.write(_ZEROS[: size - start])
    file.flush()

"""Content hashes of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 26


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes, the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for start in range(0, raw.numel(), _CHUNK):
            digest.update(raw[start : start + _CHUNK].cpu().numpy().tobytes())
    return digest.hexdigest()

"""One reading on disk: shards of named tensors, and a manifest that says what they are.

A folder of safetensors files that appears complete or not at all. What is read back is checked
against the manifest first, so that a truncated or damaged shard is noticed and never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

import pktkit
from pktkit.cache.address import Address

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]
"""One part of a reading: tensors by name."""

MANIFEST = "manifest.json"
FORMAT = 1
"""Raised whenever the layout of an entry changes."""

_CHUNK = 1 << 22


class DamagedEntryError(Exception):
    """What is on disk is not what the manifest says, or not what was asked for."""


@attrs.frozen
class Manifest:
    """What an entry says of itself.

    Arguments:
        address: what was read, in the clear.
        shards: by file name in order, `{"bytes": …, "crc32": …}`.
        written: when, in seconds since 1970.
        pktkit: version that wrote it.
    """

    address: Address
    shards: Mapping[str, Mapping[str, int]]
    written: float
    pktkit: str = pktkit.__version__

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard["bytes"] for shard in self.shards.values())

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as it is written."""
        address = attrs.asdict(self.address)
        rest = attrs.asdict(self, filter=lambda field, value: field.name != "address")
        return {"format": FORMAT, **address, **rest}


class EntryWriter:
    """Writes an entry into a temporary folder, and puts it in place when it is complete.

    Use as a context manager; leaving it removes whatever is not in place.

    Arguments:
        folder: where the entry will be.
        part: the temporary folder, on the same file system.
    """

    def __init__(self, folder: Path, part: Path) -> None:
        self.folder, self.part = folder, part
        self._place = part
        self._shards: dict[str, dict[str, int]] = {}

    def __enter__(self) -> EntryWriter:
        self.part.mkdir()
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.part, ignore_errors=True)

    def add(self, tensors: Tensors) -> None:
        """Write the next shard."""
        from safetensors.torch import save_file

        name = f"shard-{len(self._shards):05d}.safetensors"
        path = self.part / name
        save_file({n: tensor.contiguous().cpu() for n, tensor in tensors.items()}, path)
        self._shards[name] = {"bytes": path.stat().st_size, "crc32": _crc32(path)}

    def finish(self, address: Address) -> None:
        """Write the manifest and put the entry in place."""
        document = Manifest(address, self._shards, time.time()).to_json()
        (self.part / MANIFEST).write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(self.part, self.folder)
        self._place = self.folder

    def written(self) -> Iterator[dict[str, Tensor]]:
        """Yield the shards written so far, copied into memory."""
        from safetensors.torch import load_file

        for name in self._shards:
            shard = load_file(self._place / name)
            yield {key: tensor.clone() for key, tensor in shard.items()}


def read_manifest(folder: Path) -> Manifest:
    """Read what an entry says of itself.

    Raises:
        DamagedEntryError: there is no manifest, or none of this version.
        OSError: it cannot be read.
    """
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if document.get("format") != FORMAT:
            raise DamagedEntryError("it was written by another version of pktkit")
        address = Address(document["what"], document["how"], document["about"])
        shards = {
            str(name): {"bytes": int(shard["bytes"]), "crc32": int(shard["crc32"])}
            for name, shard in document["shards"].items()
        }
        return Manifest(address, shards, float(document["written"]), str(document["pktkit"]))
    except FileNotFoundError as error:
        raise DamagedEntryError(f"it has no {MANIFEST}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"its {MANIFEST} cannot be read") from error


def load(folder: Path, manifest: Manifest) -> Sequence[Tensors]:
    """Return an entry's shards, mapped into memory: they cost memory only where looked at.

    Every byte is checked once against the manifest.

    Raises:
        DamagedEntryError: a shard is missing, truncated or changed.
    """
    from safetensors.torch import load_file

    shards = []
    for name, expected in manifest.shards.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise DamagedEntryError(f"{name} has {size} bytes, expected {expected['bytes']}")
            if _crc32(path) != expected["crc32"]:
                raise DamagedEntryError(f"{name} does not hold what was written")
            shards.append(load_file(path))
        except FileNotFoundError as error:
            raise DamagedEntryError(f"{name} is missing") from error
    return shards


def tensor_bytes(tensors: Tensors) -> int:
    """Return the size of tensors by name."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def touch(folder: Path) -> None:
    """Note that an entry was used just now; a disk that does not take it is no reason to stop."""
    with contextlib.suppress(OSError):
        os.utime(folder / MANIFEST)


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value

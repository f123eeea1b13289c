"""Readings on disk, addressed by content, computed once even when several processes ask."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog

if TYPE_CHECKING:
    from torch import Tensor

READING_VERSION = 3
"""Raised whenever the code that takes a reading changes its meaning."""

log = structlog.get_logger(__name__)


def reading_key(**parts: Any) -> str:
    """Return the content address of a reading: everything it depends on, hashed."""
    document = json.dumps({"version": READING_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


Tensors = Mapping[str, "Tensor"]
"""One part of a reading: tensors by name."""


@attrs.define(eq=False)
class ReadingCache:
    """Readings by content address, each a sequence of shards of named tensors.

    On disk a reading is a folder of safetensors files that appears complete or not at all. Shards
    are mapped into memory, so that a reading costs memory only where it is looked at.

    Arguments:
        directory: where readings live; None keeps them in this process only. A directory that
            cannot be written to is given up with a warning, and the work goes on without it.
    """

    directory: Path | None = None
    _memory: dict[str, Sequence[Tensors]] = attrs.field(factory=dict, init=False)

    def get(self, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """Return the tensors behind `key`, computing them at most once."""
        return self.shards(key, lambda: [compute()])[0]

    def shards(self, key: str, produce: Callable[[], Iterable[Tensors]]) -> Sequence[Tensors]:
        """Return the shards behind `key`, producing them at most once.

        With a directory, each shard is on disk before the next is produced, and a second process
        that asks while the first produces waits for it.
        """
        if key not in self._memory:
            self._memory[key] = self._from_disk(key, produce)
        return self._memory[key]

    def _from_disk(self, key: str, produce: Callable[[], Iterable[Tensors]]) -> Sequence[Tensors]:
        if self.directory is None:
            return list(produce())
        from filelock import FileLock

        folder = self.directory / key
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{folder}.lock")
            lock.acquire()
        except OSError as error:
            self._give_up(error)
            return list(produce())
        try:
            if not folder.exists() and not self._store(folder, produce):
                return list(produce())
            return _load(folder)
        finally:
            lock.release()

    def _store(self, folder: Path, produce: Callable[[], Iterable[Tensors]]) -> bool:
        """Write shards into a temporary folder and rename it; False when the disk refuses."""
        part = folder.with_name(f"{folder.name}.{os.getpid()}{PART}")
        shards = iter(produce())
        try:
            with _refusals():
                part.mkdir()
            for number, tensors in enumerate(shards):
                with _refusals():
                    _save(tensors, part / f"shard-{number:05d}.safetensors")
            with _refusals():
                os.replace(part, folder)
        except _Refused as error:
            self._give_up(error)
            return False
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return True

    def _give_up(self, error: Exception) -> None:
        log.warning("reading cache not usable, going on without it", reason=str(error))
        self.directory = None


PART = ".part"
"""Ends the name of a folder that is being written."""


class _Refused(Exception):
    """The disk did not take a shard; errors of the model that is read stay what they are."""


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _Refused(str(error)) from error


def _save(tensors: Tensors, path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path)


def _load(folder: Path) -> Sequence[Tensors]:
    from safetensors.torch import load_file

    return [load_file(path) for path in sorted(folder.glob("shard-*.safetensors"))]

"""Readings on disk, addressed by content, computed once even when several processes ask."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog

if TYPE_CHECKING:
    from torch import Tensor

READING_VERSION = 2
"""Raised whenever the code that takes a reading changes its meaning."""

log = structlog.get_logger(__name__)


def reading_key(**parts: Any) -> str:
    """Return the content address of a reading: everything it depends on, hashed."""
    document = json.dumps({"version": READING_VERSION, **parts}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()


@attrs.define(eq=False)
class ReadingCache:
    """Named tensors by content address.

    Arguments:
        directory: where files live; None keeps readings in this process only. A directory that
            cannot be written to is given up with a warning, and the work goes on without it.
    """

    directory: Path | None = None
    _memory: dict[str, Mapping[str, Tensor]] = attrs.field(factory=dict, init=False)

    def get(self, key: str, compute: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return the tensors behind `key`, computing them at most once.

        With a directory, a second process that asks while the first computes waits for it.
        """
        if key not in self._memory:
            self._memory[key] = self._from_disk(key, compute)
        return self._memory[key]

    def _from_disk(
        self, key: str, compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        if self.directory is None:
            return compute()
        from filelock import FileLock

        path = self.directory / f"{key}.safetensors"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{path}.lock")
            lock.acquire()
        except OSError as error:
            self._give_up(error)
            return compute()
        try:
            if not path.exists():
                tensors = compute()
                if not self._store(path, tensors):
                    return tensors
            return _load(path)
        finally:
            lock.release()

    def _store(self, path: Path, tensors: Mapping[str, Tensor]) -> bool:
        """Write to a temporary file and rename; False when the disk refuses."""
        from safetensors.torch import save_file

        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            save_file({n: t.contiguous().cpu() for n, t in tensors.items()}, temporary)
            os.replace(temporary, path)
        except Exception as error:
            Path(temporary).unlink(missing_ok=True)
            self._give_up(error)
            return False
        return True

    def _give_up(self, error: Exception) -> None:
        log.warning("reading cache not usable, going on without it", reason=str(error))
        self.directory = None


def _load(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(str(path))

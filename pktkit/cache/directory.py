"""A directory of readings: who holds which, how large it is, what leaves first, what is ours.

Each reading has a lock file beside it, held while it is written, read in or removed. The locks
only save work: readings appear complete or not at all and are checked when they are read, so two
processes that both believe to hold one still get what they asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from pktkit.cache.entries import MANIFEST, DamagedEntryError, Manifest, read_manifest
from pktkit.errors import UsageError

TAG = "CACHEDIR.TAG"
"""Tells backup programs that the directory can be made again (bford.info/cachedir)."""

_TAG_TEXT = """\
Signature: 8a477f597d28d172789f06886806bc55
# Readings of language models, kept by pktkit. `pktkit cache clear` removes them.
"""

PART = ".part"
"""Ends the name of a folder that is being written or removed."""

LOCK = ".lock"

_ENTRY = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"([0-9a-f]{64})\.[0-9a-f.]+" + re.escape(PART))
_LOCK_FILE = re.compile(r"([0-9a-f]{64})" + re.escape(LOCK))


@attrs.frozen
class Entry:
    """One reading in a directory.

    Arguments:
        folder: where it is.
        bytes: what its files take.
        used: when it was last used, in seconds since 1970.
        manifest: what it says of itself; None where that cannot be read.
        reason: why it cannot be read.
    """

    folder: Path
    bytes: int
    used: float
    manifest: Manifest | None
    reason: str = ""


@attrs.frozen
class Cleared:
    """What clearing a directory did.

    Arguments:
        entries, bytes: readings that were removed, and what they took.
        kept: readings used too recently to be removed.
        busy: readings another process holds right now; they are kept.
        leftovers: half-written readings and locks of processes that are gone.
    """

    entries: int = 0
    bytes: int = 0
    kept: int = 0
    busy: int = 0
    leftovers: int = 0


@attrs.frozen
class CacheDirectory:
    """The readings in one directory."""

    path: Path

    def prepare(self) -> None:
        """Make the directory, and mark an empty one as a cache.

        Raises:
            OSError: it cannot be made or written to.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not any(self.path.iterdir()):
            (self.path / TAG).write_text(_TAG_TEXT, encoding="utf-8")

    def trial(self) -> None:
        """Write and remove a folder.

        Raises:
            OSError: the directory cannot be written to.
        """
        self.prepare()
        trial = self.path / f"{uuid.uuid4().hex}{uuid.uuid4().hex}.0{PART}"
        trial.mkdir()
        try:
            (trial / TAG).write_text(_TAG_TEXT)
        finally:
            shutil.rmtree(trial, ignore_errors=True)

    def folder(self, key: str) -> Path:
        """Return where a reading is, or would be."""
        return self.path / key

    def part(self, key: str) -> Path:
        """Return a new temporary place for a reading."""
        return self.path / f"{key}.{os.getpid():x}.{uuid.uuid4().hex[:8]}{PART}"

    @contextlib.contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold a reading until the context ends; wait for whoever holds it.

        Raises:
            OSError: the directory cannot be written to.
        """
        lock = self._locked(key)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def hold_if_free(self, key: str) -> Iterator[bool]:
        """Hold a reading unless another process does, and say whether."""
        try:
            lock = self._locked(key, blocking=False)
        except (Timeout, OSError):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _locked(self, key: str, *, blocking: bool = True) -> FileLock:
        """Take the lock of a reading.

        Raises:
            OSError: the directory cannot be written to, or its file system has no locks.
            Timeout: another process has it and `blocking` is false.
        """
        lock = FileLock(self.path / f"{key}{LOCK}")
        try:
            lock.acquire(blocking=blocking)
        except NotImplementedError as error:  # so filelock says that there are no locks
            raise OSError(f"{self.path}: {error}") from error
        return lock

    def entries(self) -> list[Entry]:
        """Return all readings, least recently used first; what cannot be read is among them."""
        found = [self._entry(path) for path in self._names(_ENTRY)]
        return sorted((e for e in found if e is not None), key=lambda entry: entry.used)

    def size(self) -> int:
        """Return what readings take, those being written included, in bytes."""
        folders = [*self._names(_ENTRY), *self._names(_LEFTOVER)]
        return sum(_folder_bytes(folder) for folder in folders)

    def make_room(self, size: int, limit: int) -> bool:
        """Remove the least recently used readings until `size` further bytes are within `limit`.

        A reading that another process holds stays. One that a process has read in already goes:
        its files are mapped, and live as long as the mapping.

        Returns:
            Whether there is room now.
        """
        excess = self.size() + size - limit
        if excess <= 0:
            return True
        for entry in self.entries():
            if self.remove(entry):
                excess -= entry.bytes
            if excess <= 0:
                return True
        return False

    def remove(self, entry: Entry) -> bool:
        """Remove a reading unless another process holds it, and say whether."""
        key = entry.folder.name
        with self.hold_if_free(key) as held:
            return held and self.discard(key)

    def discard(self, key: str) -> bool:
        """Remove a reading that this process holds; it disappears whole."""
        away = self.part(key)
        try:
            self.folder(key).rename(away)
        except OSError:
            return False
        shutil.rmtree(away, ignore_errors=True)
        return True

    def sweep(self, key: str) -> int:
        """Remove half-written remains of a reading that this process holds; return how many."""
        remains = list(self.path.glob(f"{key}.*{PART}"))
        for remain in remains:
            shutil.rmtree(remain, ignore_errors=True)
        return len(remains)

    def clear(self, older_than: float | None = None) -> Cleared:
        """Remove readings, and what dead processes left behind.

        Arguments:
            older_than: only readings not used for so many seconds; None for all.

        Raises:
            UsageError: the directory holds something that is not ours.
        """
        self.require_ours()
        newest = float("inf") if older_than is None else time.time() - older_than
        counts = dict.fromkeys((field.name for field in attrs.fields(Cleared)), 0)
        for entry in self.entries():
            if entry.used > newest:
                counts["kept"] += 1
            elif self.remove(entry):
                counts["entries"] += 1
                counts["bytes"] += entry.bytes
            else:
                counts["busy"] += 1
        counts["leftovers"] = self._sweep_all()
        return Cleared(**counts)

    def foreign(self) -> list[str]:
        """Return the names in the directory that are not ours."""
        ours = (_ENTRY, _LEFTOVER, _LOCK_FILE)
        return sorted(
            path.name
            for path in self._names(re.compile(".*"))
            if path.name != TAG
            and not path.name.startswith(".nfs")
            and not any(pattern.fullmatch(path.name) for pattern in ours)
        )

    def require_ours(self) -> None:
        """Refuse a directory that holds anything but readings.

        Raises:
            UsageError: it does; names the first ones.
        """
        if foreign := self.foreign():
            shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            raise UsageError(
                f"'{self.path}' holds {len(foreign)} files or folders that pktkit did not make "
                f"({shown}); nothing was removed. Give the directory that --cache names."
            )

    def _sweep_all(self) -> int:
        """Remove half-written readings and locks whose processes are gone; return how many."""
        remains = self._names(_LEFTOVER)
        locks = self._names(_LOCK_FILE)
        count = 0
        for key in sorted({path.name[:64] for path in (*remains, *locks)}):
            lock = self.path / f"{key}{LOCK}"
            stale = lock.exists() and not self.folder(key).exists()
            with self.hold_if_free(key) as held:
                if held:
                    count += self.sweep(key) + stale
                    if not self.folder(key).exists():
                        lock.unlink(missing_ok=True)
        return count

    def _names(self, pattern: re.Pattern[str]) -> list[Path]:
        try:
            return [path for path in self.path.iterdir() if pattern.fullmatch(path.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _entry(self, folder: Path) -> Entry | None:
        """Read an entry; None where it has just been removed."""
        try:
            file = folder / MANIFEST
            used = (file if file.exists() else folder).stat().st_mtime
        except OSError:
            return None
        size = _folder_bytes(folder)
        try:
            return Entry(folder, size, used, read_manifest(folder))
        except (DamagedEntryError, OSError) as error:
            return Entry(folder, size, used, None, str(error))


def _folder_bytes(folder: Path) -> int:
    """Return what the files of a folder take; it may be removed meanwhile."""
    total = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                total += path.stat().st_size
    return total

"""Readings in memory and on disk, computed once even when several processes ask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs
import structlog

from pktkit.cache.address import Address
from pktkit.cache.directory import CacheDirectory
from pktkit.cache.entries import (
    DamagedEntryError,
    EntryWriter,
    Tensors,
    load,
    read_manifest,
    tensor_bytes,
    touch,
)

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class ReadingCache:
    """Readings by address, each a sequence of shards of named tensors.

    On disk a reading appears complete or not at all, and is checked when it is read back: one
    that is damaged, or that says it is another, is taken again. Shards are mapped into memory, so
    that a reading costs memory only where it is looked at.

    Arguments:
        directory: where readings live; None keeps them in this process only. A directory that
            cannot be written to is given up with a warning, and the work goes on without it.
        limit: bytes that the directory may take; the least recently used readings leave first,
            and one that is larger by itself is not kept there. None for no limit.
    """

    directory: Path | None = None
    limit: int | None = None
    _memory: dict[str, Sequence[Tensors]] = attrs.field(factory=dict, init=False)

    def holds(self, size: int) -> bool:
        """Return whether a reading of so many bytes would be kept."""
        return self.directory is None or self.limit is None or size <= self.limit

    def get(self, address: Address, compute: Callable[[], Tensors]) -> Tensors:
        """Return the tensors behind an address, computing them at most once."""
        return self.shards(address, lambda: [compute()])[0]

    def shards(
        self, address: Address, produce: Callable[[], Iterable[Tensors]]
    ) -> Sequence[Tensors]:
        """Return the shards behind an address, producing them at most once.

        With a directory, each shard is on disk before the next is produced, and a second process
        that asks while the first produces waits for it.
        """
        if address.key not in self._memory:
            self._memory[address.key] = self._from_disk(address, produce)
        return self._memory[address.key]

    def _from_disk(
        self, address: Address, produce: Callable[[], Iterable[Tensors]]
    ) -> Sequence[Tensors]:
        if self.directory is None:
            return list(produce())
        readings = CacheDirectory(self.directory)
        with contextlib.ExitStack() as held:
            try:
                readings.prepare()
                held.enter_context(readings.hold(address.key))
            except OSError as error:
                self._give_up(error)
                return list(produce())
            found = self._find(readings, address)
            return self._store(readings, address, produce) if found is None else found

    def _find(self, readings: CacheDirectory, address: Address) -> Sequence[Tensors] | None:
        """Return what is on disk, unless it is not what it should be."""
        folder = readings.folder(address.key)
        if not folder.exists():
            return None
        try:
            manifest = read_manifest(folder)
            if manifest.address != address:
                raise DamagedEntryError("it is another reading")
            shards = load(folder, manifest)
        except (DamagedEntryError, OSError) as error:
            log.warning(
                "a reading in the cache cannot be used, taking it again",
                reason=str(error),
                entry=str(folder),
            )
            readings.discard(address.key)
            return None
        touch(folder)
        return shards

    def _store(
        self,
        readings: CacheDirectory,
        address: Address,
        produce: Callable[[], Iterable[Tensors]],
    ) -> Sequence[Tensors]:
        """Produce shards and write them; what the disk does not take stays in memory."""
        readings.sweep(address.key)
        folder = readings.folder(address.key)
        shards = iter(produce())
        pending: list[Tensors] = []
        with contextlib.ExitStack() as opened:
            writer = EntryWriter(folder, readings.part(address.key))
            try:
                with _refusals():
                    opened.enter_context(writer)
                for tensors in shards:
                    pending = [tensors]
                    self._require_room(readings, tensors)
                    with _refusals():
                        writer.add(tensors)
                    pending = []
                with _refusals():
                    writer.finish(address)
                    return load(folder, read_manifest(folder))
            except _NoRoomError as error:
                log.info(
                    "a reading does not fit the cache and is kept in memory", reason=str(error)
                )
            except _RefusedError as error:
                self._give_up(error)
            return [*writer.written(), *pending, *shards]

    def _require_room(self, readings: CacheDirectory, tensors: Tensors) -> None:
        if self.limit is None:
            return
        size = tensor_bytes(tensors) + _OVERHEAD
        if not readings.make_room(size, self.limit):
            raise _NoRoomError(f"{size:,} more bytes exceed the limit of {self.limit:,}")

    def _give_up(self, error: Exception) -> None:
        if self.directory not in _given_up:
            log.warning(
                "the cache of readings cannot be written to, going on without it",
                directory=str(self.directory),
                reason=str(error),
            )
        _given_up.add(self.directory)
        self.directory = None


_OVERHEAD = 1 << 13
"""Bytes of a shard beyond its tensors: its header, and its share of the manifest."""

_given_up: set[Path | None] = set()
"""Directories this process has warned about: one line tells it all."""


class _RefusedError(Exception):
    """The disk did not take a shard; errors of the model that is read stay what they are."""


class _NoRoomError(Exception):
    """A reading would take more than the limit allows."""


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _RefusedError(str(error)) from error

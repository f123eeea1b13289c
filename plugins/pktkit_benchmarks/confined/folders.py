"""Measuring and emptying a directory that somebody else may have filled with malice."""

from __future__ import annotations

import contextlib
import os


def usage(folder: str, most: int) -> tuple[int, int]:
    """Return how many entries a directory has, at all depths, and the bytes they occupy.

    Counting ends beyond `most` entries.
    """
    entries = held = 0
    waiting = [folder]
    while waiting and entries <= most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                entries += 1
                with contextlib.suppress(OSError):
                    held += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                if entries > most:
                    break
    return entries, held


def emptied(folder: str) -> None:
    """Remove all that a directory holds, however deep it lies.

    Directories are brought up to the top one by one, so that no path grows too long.

    Raises:
        OSError: something cannot be removed.
    """
    number = 0
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        os.chmod(place, 0o700)
        inner = []
        with os.scandir(place) as found:
            entries = list(found)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.path)
            else:
                os.unlink(entry.path)
        for path in inner:
            number += 1
            raised = os.path.join(folder, f".emptied-{os.getpid()}-{number}")
            os.rename(path, raised)
            waiting.append(raised)
        if place != folder:
            os.rmdir(place)

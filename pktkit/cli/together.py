"""A command that several processes of one launch run together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pktkit import logs

if TYPE_CHECKING:
    from pktkit.distributed.processes import Processes


@contextlib.contextmanager
def together(
    devices: tuple[str, str], cache: Path | None
) -> Iterator[tuple[Processes, Path | None]]:
    """Join the other processes, if a launcher started some; only process 0 logs.

    Gives the processes and a directory of readings that they share.

    Arguments:
        devices: of source and target.
        cache: the user's directory of readings, if any.

    Raises:
        UsageError: the launch asks for what pktkit does not do.
    """
    from pktkit.distributed.launch import joined, shared_directory

    source, target = devices
    with (
        joined(target, source) as processes,
        shared_directory(processes, cache) as shared,
    ):
        if not processes.main:
            logs.configure(logs.QUIET)
        yield processes, shared

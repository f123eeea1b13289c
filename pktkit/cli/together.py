"""A command that several processes of one launch run together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import attrs

from pktkit import logs
from pktkit.cli.options import ModelChoice

if TYPE_CHECKING:
    from pktkit.processes import Processes


@contextlib.contextmanager
def together(models: ModelChoice) -> Iterator[tuple[Processes, ModelChoice]]:
    """Join the other processes, if a launcher started some; only process 0 logs.

    Gives the processes and the models with a directory of readings that they share.

    Raises:
        UsageError: the launch asks for what pktkit does not do.
    """
    from pktkit.launch import joined, shared_directory

    source, target = models.pair.devices
    with (
        joined(target, source) as processes,
        shared_directory(processes, models.cache) as cache,
    ):
        if not processes.main:
            logs.configure(logs.QUIET)
        yield processes, attrs.evolve(models, cache=cache)

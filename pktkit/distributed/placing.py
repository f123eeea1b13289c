"""Laying a target out for training, as the processes of a launch were told to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pktkit.distributed.layout import Layout
from pktkit.distributed.processes import Sharding, Zero

if TYPE_CHECKING:
    from torch import nn

    from pktkit.distributed.processes import Processes
    from pktkit.pair import LoadedModel


@contextlib.contextmanager
def laid_out(
    target: LoadedModel, called: Any, parameters: Sequence[nn.Parameter], processes: Processes
) -> Iterator[Layout]:
    """Lay a target out; every process starts from the weights that process 0 has.

    Arguments:
        called: the target's model, or a wrapper around it.
        parameters: what will train; they hold the result on leaving.
    """
    processes.copy_from_main(called.parameters())
    sharding = processes.sharding
    if isinstance(sharding, Sharding):
        from pktkit.distributed.sharding import sharded

        with sharded(target, called, parameters, sharding, processes.count) as layout:
            yield layout
    elif isinstance(sharding, Zero):
        from pktkit.distributed.zero import partitioned

        with partitioned(target, called, parameters, sharding) as layout:
            yield layout
    else:
        yield Layout(target, called, parameters[0].device)

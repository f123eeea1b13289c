"""Where a target's weights lie while it trains: whole in every process, or spread over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pktkit.distributed.processes import Processes
    from pktkit.pair import LoadedModel


@attrs.frozen(eq=False)
class Layout:
    """A target laid out for training; as it is, its own parameters train.

    Arguments:
        target: its blocks are recorded.
        called: computes the logits.
        device: of the batches.
    """

    target: LoadedModel
    called: Any
    device: torch.device

    def place(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return what trains in the place of parameters of the target."""
        return list(parameters)

    def stepped(self) -> None:
        """Take note that the optimiser has moved the parameters."""


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
    if processes.sharding is None:
        yield Layout(target, called, parameters[0].device)
        return
    from pktkit.distributed.sharding import spread

    with spread(target, called, parameters, processes) as layout:
        yield layout

"""Where a target's weights lie while it trains: whole in every process, as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.distributed.engine import AveragingEngine, Engine, Moving

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pktkit.budget import Budget
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

    def engine(self, moving: Moving, budget: Budget, processes: Processes) -> Engine:
        """Return what moves the parameters, which are placed already."""
        return AveragingEngine(moving, budget, processes)

    def stepped(self) -> None:
        """Take note that the parameters have moved."""

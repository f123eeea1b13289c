"""Training a target whose weights are spread over processes (FSDP2, torch's `fully_shard`).

A copy of the target is cut into shards and trains; the target itself stays whole, waits in host
memory where an accelerator trains, and is written to at the end. So whatever holds on to the
target's parameters (journal, adapter, evaluator) finds them in their place, and between two runs
the target is a model like any other.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from pktkit.distributed.exchange import whole
from pktkit.distributed.layout import Layout

if TYPE_CHECKING:
    from pktkit.distributed.processes import Processes, Sharding
    from pktkit.pair import LoadedModel


@attrs.frozen(eq=False)
class Spread(Layout):
    """A sharded copy of a target.

    Arguments:
        shards: by id of a parameter of the target, its shard in the copy.
        head: weight of the target's LM head, which loss terms may read.
    """

    shards: Mapping[int, nn.Parameter]
    head: nn.Parameter

    def place(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return the shards that train in the place of parameters of the target."""
        return [self.shards[id(parameter)] for parameter in parameters]

    def stepped(self) -> None:
        """Keep the target's LM head as it trains, for loss terms that read states through it."""
        shard = self.shards[id(self.head)]
        if shard.requires_grad:
            with torch.no_grad():
                self.head.copy_(whole(shard))


@contextlib.contextmanager
def spread(
    target: LoadedModel, called: Any, parameters: Sequence[nn.Parameter], processes: Processes
) -> Iterator[Layout]:
    """Spread a copy of a target over processes, a group of shards per block.

    Arguments:
        called: the target's model, or a wrapper around it.
        parameters: what will train; written to unless the body raises.
    """
    assert processes.sharding is not None
    device = parameters[0].device
    with _blocks_aside(target, device):
        twin = copy.deepcopy(called)
        model = twin.get_submodule(_path(called, target.model))
        anatomy = attrs.evolve(target.anatomy, model=model)
        settings = _settings(processes.sharding, device, processes.count)
        for block in anatomy.blocks:
            fully_shard(block, **settings)
        fully_shard(twin, **settings)
        shards = dict(twin.named_parameters())
        layout = Spread(
            attrs.evolve(target, model=model, anatomy=anatomy),
            twin,
            device,
            {id(p): shards[name] for name, p in called.named_parameters()},
            target.anatomy.head_weight,
        )
        yield layout
        with torch.no_grad():
            for parameter, shard in zip(parameters, layout.place(parameters), strict=True):
                parameter.copy_(whole(shard))


@contextlib.contextmanager
def _blocks_aside(target: LoadedModel, device: torch.device) -> Iterator[None]:
    """Keep the target's blocks in host memory; its other weights may be read while it trains."""
    blocks = target.anatomy.blocks
    for block in blocks:
        block.to("cpu")
    try:
        yield
    finally:
        for block in blocks:
            block.to(device)


def _path(wrapper: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in wrapper.named_modules() if module is model)


def _settings(sharding: Sharding, device: torch.device, count: int) -> dict[str, Any]:
    return {
        "mesh": init_device_mesh(device.type, (count,)),
        "reshard_after_forward": sharding.reshard_after_forward,
        "offload_policy": CPUOffloadPolicy() if sharding.offload else OffloadPolicy(),
    }

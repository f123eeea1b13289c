"""Training a target whose weights are spread over processes (FSDP2, torch's `fully_shard`)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

from pktkit.distributed.copies import Copied, copied
from pktkit.distributed.exchange import whole

if TYPE_CHECKING:
    import torch

    from pktkit.distributed.layout import Layout
    from pktkit.distributed.processes import Sharding
    from pktkit.pair import LoadedModel


@contextlib.contextmanager
def sharded(
    target: LoadedModel,
    called: Any,
    parameters: Sequence[nn.Parameter],
    sharding: Sharding,
    count: int,
) -> Iterator[Layout]:
    """Spread a copy of a target over `count` processes, a group of shards per block.

    Arguments:
        called: the target's model, or a wrapper around it.
        parameters: what will train; written to unless the body raises.
    """
    settings = _settings(sharding, parameters[0].device, count)

    def shard(twin: nn.Module, blocks: Sequence[nn.Module]) -> None:
        for block in blocks:
            fully_shard(block, **settings)
        fully_shard(twin, **settings)

    make = functools.partial(Copied, whole=whole)
    with copied(target, called, parameters, make, prepare=shard) as layout:
        yield layout


def _settings(sharding: Sharding, device: torch.device, count: int) -> dict[str, Any]:
    return {
        "mesh": init_device_mesh(device.type, (count,)),
        "reshard_after_forward": sharding.reshard_after_forward,
        "offload_policy": CPUOffloadPolicy() if sharding.offload else OffloadPolicy(),
    }

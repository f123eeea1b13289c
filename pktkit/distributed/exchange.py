"""Tensors that cross processes on the way to a loss, with their gradients.

Every process computes the same loss. The gradient passed back is that of the sum of all
processes' losses, hence `count` times this process's own; averaging the parameters' gradients
afterwards takes the factor off again, also for parameters that are used after the exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

BUCKET = 1 << 24
"""Entries of gradients that are exchanged at once, in fp32."""


class Gather(torch.autograd.Function):
    """All processes' values along the first dimension, which is `counts[rank]` long."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Sequence[int], rank: int) -> Tensor:
        """Return `[sum of counts, …]`."""
        ctx.count, ctx.start, ctx.own = len(counts), sum(counts[:rank]), counts[rank]
        # equal lengths, because not every backend exchanges unequal ones
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: counts[rank]] = values
        boxes = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(boxes, padded)
        return torch.cat([box[:count] for box, count in zip(boxes, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        """Return this process's part, times the number of processes."""
        return outer[0][ctx.start : ctx.start + ctx.own] * ctx.count, None, None


class Total(torch.autograd.Function):
    """The sum of all processes' values."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int) -> Tensor:
        """Return the sum, of the value's shape."""
        ctx.count = count
        summed = value.detach().clone()
        torch.distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        """Return the gradient, times the number of processes."""
        return outer[0] * ctx.count, None


def average_gradients(parameters: Iterable[nn.Parameter], count: int) -> None:
    """Replace gradients by their mean over `count` processes, with the same bits in each.

    Sums are in fp32, a bucket at a time. Gradients of sharded parameters are means already.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    for bucket in _buckets([grad for grad in gradients if not isinstance(grad, DTensor)]):
        flat = torch.cat([grad.flatten().float() for grad in bucket])
        torch.distributed.all_reduce(flat)
        flat /= count
        parts = flat.split([grad.numel() for grad in bucket])
        for grad, part in zip(bucket, parts, strict=True):
            grad.copy_(part.view_as(grad))


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor in full, where it may be one process's shard of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of process 0."""
    for tensor in tensors:
        dense = tensor.detach().contiguous()
        torch.distributed.broadcast(dense, src=0)
        if not tensor.is_contiguous():
            tensor.detach().copy_(dense)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of tensors on one device, of about `BUCKET` entries."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.numel() for other in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.device != bucket[0].device):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket

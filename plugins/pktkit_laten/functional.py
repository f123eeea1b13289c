"""Sparse updates felt by a model's forward pass while its weights stay as they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.families import Anatomy, Projection
    from pktkit.updates import SparseUpdate


@contextlib.contextmanager
def injected(anatomy: Anatomy, updates: Iterable[SparseUpdate]) -> Iterator[None]:
    """Let every forward pass inside the context compute with `W + Δ`.

    What the updates add to a projection's output is added there, in fp32, from the projection's
    own input; a dense Δ never exists. Gradients flow into the updates' values.

    Arguments:
        anatomy: of the model.
        updates: any number per projection.
    """
    handles = []
    try:
        for update in updates:
            projection = anatomy.projections(update.block)[update.projection]
            module = anatomy.model.get_submodule(projection.module)
            handles.append(module.register_forward_hook(_adding(update, projection)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Keep gradients away from a model's parameters inside the context; flags as before after."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        model.requires_grad_(False)
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])


def _adding(update: SparseUpdate, projection: Projection) -> Any:
    rows = projection.rows

    def outputs_of(index: Tensor, size: int) -> Tensor:
        """Return where a projection's rows come out of its module, which may hold several."""
        if rows is None:
            return index
        return torch.arange(size, device=index.device)[rows][index]

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        seen, size = args[0].float(), output.shape[-1]
        values, index = update.values.float(), update.indices
        if update.axis == 0:
            added = functional.linear(seen, values)
            return output.index_add(-1, outputs_of(index, size), added.to(output.dtype))
        added = functional.linear(seen.index_select(-1, index), values.T)
        if rows is not None:
            whole = torch.arange(added.shape[-1], device=index.device)
            return output.index_add(-1, outputs_of(whole, size), added.to(output.dtype))
        return output + added.to(output.dtype)

    return hook

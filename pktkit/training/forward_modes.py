"""How a training forward pass is computed: in which precision, and what of it is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pktkit.errors import StrategyError

if TYPE_CHECKING:
    import torch

    from pktkit.pair import LoadedModel

_MARKS = (
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "_require_grads_hook",
    "_require_grads_hooks",
)
"""Attributes that transformers sets on modules when checkpointing is switched on."""


def autocast(kind: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a forward pass; `kind` is one of `pktkit.budget.AUTOCAST`."""
    import torch

    if kind == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, kind))


@contextlib.contextmanager
def checkpointing(target: LoadedModel, *, on: bool) -> Iterator[None]:
    """Keep only the blocks' inputs of a forward pass, and compute the rest again going backward.

    On leaving, the model's modules are marked as they were.

    Raises:
        StrategyError: the architecture cannot do it.
    """
    if not on:
        yield
        return
    model: Any = target.model
    if not model.supports_gradient_checkpointing:
        raise StrategyError(
            f"target '{target.name}' ({target.anatomy.family}) cannot checkpoint gradients. "
            "Set budget.checkpointing to false."
        )
    modules = list(model.modules())
    before = [{m: vars(module)[m] for m in _MARKS if m in vars(module)} for module in modules]
    # the older name is deprecated where the newer one exists
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    try:
        enable({"use_reentrant": False})
        # only reentrant checkpoints need inputs that require gradients; they would cost the
        # backward pass of frozen blocks
        model.disable_input_require_grads()
        yield
    finally:
        for module, marks in zip(modules, before, strict=True):
            for mark in _MARKS:
                vars(module).pop(mark, None)
            vars(module).update(marks)

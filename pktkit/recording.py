"""Recording block states and logits at chosen positions while a model runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.values import Interface

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.encoding import Batch
    from pktkit.families import Anatomy

EMBEDDING = -1
"""Index of the residual stream before the first block."""


def hidden_state(value: Any) -> Tensor:
    """Return the hidden state of a block's output, which is a tensor or a tuple led by one."""
    return value[0] if isinstance(value, tuple) else value


@attrs.define(eq=False)
class Recording:
    """The residual stream around blocks, seen during a forward pass.

    Arguments:
        mask: bool `[sequences, length]`, the positions that are read.
    """

    mask: Tensor
    _inputs: dict[int, Tensor] = attrs.field(factory=dict)
    _outputs: dict[int, Tensor] = attrs.field(factory=dict)

    def before(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` before a block."""
        return self._inputs[block][self.mask]

    def after(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` after a block."""
        return self._outputs[block][self.mask]

    def states(self, block: int, interface: Interface) -> Tensor:
        """Return `[tokens, D]` of a block at an interface."""
        if interface is Interface.RESIDUAL:
            return self.after(block)
        return (self._outputs[block] - self._inputs[block])[self.mask]


@contextlib.contextmanager
def record(anatomy: Anatomy, blocks: Iterable[int], batch: Batch) -> Iterator[Recording]:
    """Record the residual stream around `blocks` at the batch's predicting positions.

    Gradients flow through what is recorded. The LM head is fed these positions only, so that a
    forward pass inside the context returns logits `[tokens, V]` and never a full
    `[sequences, length, V]` tensor.
    """
    recording = Recording(batch.predicting)
    handles = []

    def before(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            recording._inputs[index] = args[0] if args else kwargs["hidden_states"]

        return hook

    def after(index: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            recording._outputs[index] = hidden_state(output)

        return hook

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][batch.predicting],)

    try:
        for index in sorted(set(blocks)):
            block = anatomy.blocks[index]
            handles.append(block.register_forward_pre_hook(before(index), with_kwargs=True))
            handles.append(block.register_forward_hook(after(index)))
        handles.append(anatomy.head.register_forward_pre_hook(select))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on a batch and return its logits; inside `record`, `[tokens, V]`."""
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    logits: Tensor = output.logits
    return logits

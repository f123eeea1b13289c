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
    _positions: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # found once: indexing by a mask searches it anew each time, and waits for an accelerator
        self._positions = self.mask.flatten().nonzero().squeeze(1)

    def before(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` before a block."""
        return self.select(self._inputs[block])

    def after(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` after a block."""
        return self.select(self._outputs[block])

    def states(self, block: int, interface: Interface, kept: Tensor | None = None) -> Tensor:
        """Return `[tokens, D]` of a block at an interface.

        Arguments:
            kept: `[tokens]` int64, which of the positions that are read; None for all.
        """
        if interface is Interface.RESIDUAL:
            return self.select(self._outputs[block], kept)
        return self.select(self._outputs[block], kept) - self.select(self._inputs[block], kept)

    def select(self, stream: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return the read positions `[tokens, D]` of `[sequences, length, D]`."""
        positions = self._positions if kept is None else self._positions[kept]
        return stream.flatten(0, 1).index_select(0, positions.to(stream.device))


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

    try:
        for index in sorted(set(blocks)):
            block = anatomy.blocks[index]
            handles.append(block.register_forward_pre_hook(before(index), with_kwargs=True))
            handles.append(block.register_forward_hook(after(index)))
        with _head_fed(anatomy, recording):
            yield recording
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def head_reads(anatomy: Anatomy, mask: Tensor) -> Iterator[None]:
    """Feed the LM head the positions of `mask` only: a forward pass returns `[tokens, V]`.

    Arguments:
        mask: bool `[sequences, length]`.
    """
    with _head_fed(anatomy, Recording(mask)):
        yield


@contextlib.contextmanager
def _head_fed(anatomy: Anatomy, recording: Recording) -> Iterator[None]:
    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (recording.select(args[0]),)

    handle = anatomy.head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """Run the model on a batch and return its logits; inside `record`, `[tokens, V]`."""
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    logits: Tensor = output.logits
    return logits

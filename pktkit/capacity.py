"""What may move while a target trains: all weights, some blocks, or a LoRA adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.adapters import LoraShape, lora

if TYPE_CHECKING:
    from torch import nn

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel

TRAINED = ("full", "lora")


@attrs.frozen(eq=False)
class Trainable:
    """A target ready to train.

    Arguments:
        model: what to call, the target's model or a wrapper around it.
        parameters: what the optimiser updates.
    """

    model: Any
    parameters: list[nn.Parameter]

    @property
    def count(self) -> int:
        """How many numbers can change."""
        return sum(parameter.numel() for parameter in self.parameters)


@contextlib.contextmanager
def trainable(
    target: LoadedModel,
    journal: Journal,
    *,
    seed: int,
    shape: LoraShape | None = None,
    blocks: Sequence[int] | None = None,
) -> Iterator[Trainable]:
    """Open a target for training inside the journal.

    Arguments:
        seed: of an adapter's random start.
        shape: the LoRA adapter to train and merge; None trains the weights themselves.
        blocks: only these blocks may change; None opens the whole model.
    """
    if shape is not None:
        with lora(target, journal, shape, blocks=blocks, seed=seed) as adapter:
            yield Trainable(adapter.model, adapter.parameters)
        return
    names = (
        [name for name, _ in target.model.named_parameters()]
        if blocks is None
        else [name for block in blocks for name in target.anatomy.block_parameters(block)]
    )
    with journal.training(names) as parameters:
        yield Trainable(target.model, parameters)

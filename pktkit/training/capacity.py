"""What may move while a target trains: all weights, some blocks, or a LoRA adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.training.adapters import LoraShape, lora

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
        by_block: those of each opened block; of an adapter, those inside the block.
        also: those opened beside the blocks.
    """

    model: Any
    parameters: list[nn.Parameter]
    by_block: Mapping[int, list[nn.Parameter]] = attrs.field(factory=dict)
    also: list[nn.Parameter] = attrs.field(factory=list)

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
    also: Sequence[str] = (),
) -> Iterator[Trainable]:
    """Open a target for training inside the journal.

    Arguments:
        seed: of an adapter's random start.
        shape: the LoRA adapter to train and merge; None trains the weights themselves.
        blocks: only these blocks may change; None opens the whole model.
        also: names of parameters that may change besides those of `blocks`, without an adapter.
    """
    opened = range(target.anatomy.n_blocks) if blocks is None else blocks
    if shape is not None:
        with lora(target, journal, shape, blocks=blocks, seed=seed) as adapter:
            inside = {block: adapter.inside(target.anatomy, block) for block in opened}
            yield Trainable(adapter.model, adapter.parameters, inside)
        return
    names = {block: target.anatomy.block_parameters(block) for block in opened}
    chosen = [*(name for block in opened for name in names[block]), *also]
    if blocks is None:
        chosen = [name for name, _ in target.model.named_parameters()]
    with journal.training(chosen) as parameters:
        by_name = dict(zip(chosen, parameters, strict=True))
        yield Trainable(
            target.model,
            parameters,
            {block: [by_name[name] for name in names[block]] for block in opened},
            [by_name[name] for name in also],
        )

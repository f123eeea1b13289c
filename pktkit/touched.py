"""What of a target an injector would change, told from shapes alone.

An injector may have a method

    def touches(self, target: LoadedModel, aligner: object) -> Touched

for `pktkit plan`; `target` has no weights, and `aligner` is the built component or None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel
    from pktkit.training.adapters import LoraShape


@attrs.frozen
class Touched:
    """What of a target changes.

    Arguments:
        what: in words.
        parameters: how many numbers can change; of an adapter, its own.
        trained: whether an optimiser moves them; what is written once is not.
        adapter_used: whether they are those of an adapter, merged in the end.
        states: whether aligned states are held beside, one per token and block.
        outputs: what the modules that carry an adapter give, in numbers per token and block.
    """

    what: str
    parameters: int
    trained: bool = True
    adapter_used: bool = False
    states: bool = False
    outputs: int = 0

    @classmethod
    def whole(
        cls, target: LoadedModel, *, blocks: int | None = None, states: bool = False
    ) -> Touched:
        """Return training of the weights: of `blocks` blocks, None for the whole model."""
        if blocks is None:
            return cls("all weights", _count(target), states=states)
        return cls(_blocks(blocks), blocks * _block_count(target), states=states)

    @classmethod
    def adapter(
        cls,
        target: LoadedModel,
        shape: LoraShape,
        *,
        blocks: int | None = None,
        states: bool = False,
    ) -> Touched:
        """Return training of a LoRA adapter on `blocks` blocks, None for all."""
        anatomy = target.anatomy
        kinds = [k for k in shape.kinds or anatomy.projection_names if k in _known(target)]
        modules = anatomy.module_names(kinds)
        shapes = [_weight(target, name).shape for name in modules]
        opened = blocks or anatomy.n_blocks
        number = shape.rank * sum(sum(size) for size in shapes) * opened // anatomy.n_blocks
        side = 1 if anatomy.layout.transposed else 0
        outputs = sum(size[side] for size in shapes)
        where = "" if blocks is None else f", {_blocks(blocks)}"
        what = f"LoRA of rank {shape.rank} on {' '.join(kinds)}{where}"
        return cls(
            what,
            number,
            adapter_used=True,
            states=states,
            outputs=outputs // anatomy.n_blocks,
        )

    @classmethod
    def written(cls, target: LoadedModel) -> Touched:
        """Return values that are written once, at most all."""
        return cls("written once, at most all weights", _count(target), trained=False)


def _weight(target: LoadedModel, module: str) -> Tensor:
    return target.model.get_parameter(f"{module}.weight")


def _known(target: LoadedModel) -> tuple[str, ...]:
    return (*target.anatomy.projection_names, "embed", "head")


def _blocks(number: int) -> str:
    return "one block" if number == 1 else f"{number} blocks"


def _count(target: LoadedModel) -> int:
    return sum(parameter.numel() for parameter in target.model.parameters())


def _block_count(target: LoadedModel) -> int:
    anatomy = target.anatomy
    return sum(target.model.get_parameter(n).numel() for n in anatomy.block_parameters(0))

"""A copy of the target that trains in its place, spread over processes.

The target itself stays whole, waits in host memory where an accelerator trains, and is written to
at the end. So whatever holds on to the target's parameters (journal, adapter, evaluator) finds them
in their place, and between two runs the target is a model like any other.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from pktkit.distributed.layout import Layout

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel


@attrs.frozen(eq=False)
class Copied(Layout):
    """A copy of a target.

    Arguments:
        twins: by id of a parameter of the target, the copy's.
        head: weight of the target's LM head, which loss terms may read.
        whole: returns a parameter of the copy in full; all processes call it.
    """

    twins: Mapping[int, nn.Parameter]
    head: nn.Parameter
    whole: Callable[[nn.Parameter], Tensor]

    def place(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Return the copy's parameters that train in the place of the target's."""
        return [self.twins[id(parameter)] for parameter in parameters]

    def stepped(self) -> None:
        """Keep the target's LM head as it trains, for loss terms that read states through it."""
        twin = self.twins[id(self.head)]
        if twin.requires_grad:
            with torch.no_grad():
                self.head.copy_(self.whole(twin))


@contextlib.contextmanager
def copied(
    target: LoadedModel,
    called: Any,
    parameters: Sequence[nn.Parameter],
    make: Callable[..., Copied],
    prepare: Callable[[nn.Module, Sequence[nn.Module]], None] = lambda twin, blocks: None,
) -> Iterator[Copied]:
    """Give a copy of a target, and write what became of it to the target unless the body raises.

    Arguments:
        called: the target's model, or a wrapper around it.
        parameters: what will train.
        make: returns the layout, of `Copied`'s arguments but for `whole`.
        prepare: spreads the copy; called with it and its blocks before parameters are looked up.
    """
    device = parameters[0].device
    with _blocks_aside(target, device):
        twin = copy.deepcopy(called)
        model = twin.get_submodule(_path(called, target.model))
        anatomy = attrs.evolve(target.anatomy, model=model)
        prepare(twin, anatomy.blocks)
        theirs = dict(twin.named_parameters())
        layout = make(
            attrs.evolve(target, model=model, anatomy=anatomy),
            twin,
            device,
            {id(p): theirs[name] for name, p in called.named_parameters()},
            target.anatomy.head_weight,
        )
        yield layout
        with torch.no_grad():
            for parameter, moved in zip(parameters, layout.place(parameters), strict=True):
                parameter.copy_(layout.whole(moved))


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

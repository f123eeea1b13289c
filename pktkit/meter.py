"""Counting what a transfer computes, with the formulas of `pktkit.flops`, while it runs.

A meter sees every weight matrix that a token passes inside its context, in whatever a component
does with either model, with an adapter or with modules of its own, and the gradients that come
back. Its figures rest on shapes alone and cost next to nothing. What is linear algebra outside of
modules (closed-form fits, singular value decompositions) is not seen; a component may `report` it.

Readings of the probe are counted as what an arm needed, not as what happened to be computed while
it ran: a row that is read counts one forward pass of that row, once per arm, whether it came from
the cache of another arm, from the disk, or was computed again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import attrs

from pktkit.distributed.processes import ALONE, Processes
from pktkit.flops import ForwardCost, attention_flops, matrix_flops

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.encoding import EncodedSplit
    from pktkit.pair import LoadedModel

SOURCE, TARGET = "source", "target"
"""Whose work it is; what belongs to neither model (adapters, readouts, maps) is the target's."""

COST = "cost of reading"
"""Name of the tensor that a kept reading carries its own operations in, `[source, target]`."""

_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


@attrs.define(eq=False)
class _Attention:
    """One pass through a block's attention."""

    side: str
    sequences: int
    queries: int
    keys: int
    width: int

    @property
    def flops(self) -> int:
        return attention_flops(self.sequences, self.queries, self.keys, self.width)


@attrs.define(eq=False)
class Meter:
    """Counts the operations of everything that runs inside `counting`.

    Arguments:
        source, target: the two models, or either.
        passes: by side, operations of passes through modules.
        readings: by side, operations of readings that were needed.
        trained: operations of passes inside `training`, of both sides.
        trained_readings: operations of readings first needed inside `training`.
    """

    source: LoadedModel | None
    target: LoadedModel | None
    passes: dict[str, int] = attrs.field(factory=lambda: {SOURCE: 0, TARGET: 0}, init=False)
    readings: dict[str, int] = attrs.field(factory=lambda: {SOURCE: 0, TARGET: 0}, init=False)
    trained: int = attrs.field(default=0, init=False)
    trained_readings: int = attrs.field(default=0, init=False)
    _training: bool = attrs.field(default=False, init=False)
    _read: dict[tuple[str, ...], Mapping[str, int]] = attrs.field(factory=dict, init=False)
    _kinds: dict[type, bool] = attrs.field(factory=dict, init=False)
    _own: set[int] = attrs.field(factory=set, init=False)
    _mixing: dict[int, tuple[int, str, int]] = attrs.field(factory=dict, init=False)
    _open: dict[int, _Attention] = attrs.field(factory=dict, init=False)

    def flops(self, side: str) -> int:
        """Return the operations of a side, `SOURCE` or `TARGET`."""
        return self.passes[side] + self.readings[side]

    @property
    def total(self) -> int:
        """Operations of both sides."""
        return self.flops(SOURCE) + self.flops(TARGET)

    @contextlib.contextmanager
    def counting(self) -> Iterator[Meter]:
        """Count what runs inside; a meter around this one does not see it."""
        from torch.nn.modules.module import register_module_forward_hook

        self._look()
        handle = register_module_forward_hook(self._passed, with_kwargs=True)
        token = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(token)
            handle.remove()
            self._mixing.clear()
            self._open.clear()

    def add(self, side: str, flops: int) -> None:
        """Count operations of a pass."""
        self.passes[side] += flops
        if self._training:
            self.trained += flops

    def needed(self, key: tuple[str, ...], flops: Mapping[str, int]) -> None:
        """Count a reading, unless it was counted already."""
        if key not in self._read:
            self._read[key] = flops
            for side, count in flops.items():
                self.readings[side] += count
                self.trained_readings += count if self._training else 0

    def _add_others(
        self,
        processes: Processes,
        passes: Mapping[str, int],
        read: Collection[tuple[str, ...]],
    ) -> None:
        """Add what other processes counted since this one had the given figures."""
        fresh = {key: flops for key, flops in self._read.items() if key not in read}
        since = {side: count - passes[side] for side, count in self.passes.items()}
        for rank, (theirs, keys) in enumerate(processes.everyones((since, fresh))):
            if rank == processes.rank:
                continue
            for side, count in theirs.items():
                self.add(side, count)
            for key, flops in keys.items():
                self.needed(key, flops)

    def _look(self) -> None:
        """Find out which modules are the source's, and where both models attend."""
        if self.source is not None:
            self._own = {id(module) for module in self.source.model.modules()}
            self._look_at(self.source, SOURCE)
        if self.target is not None:
            self._look_at(self.target, TARGET)

    def _look_at(self, loaded: LoadedModel, side: str) -> None:
        anatomy = loaded.anatomy
        width = anatomy.n_heads * anatomy.head_dim
        for index, block in enumerate(anatomy.blocks):
            mixed = block.get_submodule(anatomy.layout.projections["o"])
            # an adapter may stand in its place later: what it wraps is the same module
            self._mixing[id(getattr(mixed, "base_layer", mixed))] = (id(block), side, width)
            self._mixing[id(block)] = (index, side, 0)

    def _passed(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Called by torch after every module, so what is not counted leaves at once."""
        known, kind = self._mixing.get(id(module)), self._kinds.get(type(module))
        if kind is None:
            kind = self._kinds[type(module)] = _multiplies(module)
        if (known is None and not kind) or _current.get() is not self:
            return
        if known is not None and known[2] == 0:
            self._left_block(id(module), known[0], args, kwargs)
            return
        if known is not None:
            self._attended(known, args[0])
        if kind:
            side = SOURCE if id(module) in self._own else TARGET
            self._multiplied(side, args[0], cast("Tensor", module.weight), output)

    def _multiplied(self, side: str, given: Tensor, weight: Tensor, output: Tensor) -> None:
        outputs = output.shape[-1]
        flops = matrix_flops(output.numel() // max(1, outputs), given.shape[-1], outputs)
        self.add(side, flops)
        back = flops * (int(given.requires_grad) + int(weight.requires_grad))
        if output.requires_grad and back:
            output.register_hook(self._later(side, lambda: back))

    def _attended(self, known: tuple[int, str, int], mixed: Tensor) -> None:
        """Count attention, whose output is what the projection after it is given."""
        block, side, width = known
        pass_ = _Attention(side, mixed[..., 0, 0].numel(), mixed.shape[-2], mixed.shape[-2], width)
        self._open[block] = pass_
        self.add(side, pass_.flops)
        if mixed.requires_grad:
            mixed.register_hook(self._later(side, lambda: 2 * pass_.flops))

    def _left_block(self, block: int, index: int, args: Any, kwargs: Any) -> None:
        """Count the keys that came from a key-value cache."""
        pass_ = self._open.pop(block, None)
        kept = [value for value in (*args, *kwargs.values()) if hasattr(value, "get_seq_length")]
        if pass_ is not None and kept:
            before = pass_.flops
            pass_.keys = max(pass_.queries, int(kept[0].get_seq_length(index)))
            self.add(pass_.side, pass_.flops - before)

    def _later(self, side: str, flops: Callable[[], int]) -> Callable[[Tensor], None]:
        """Return a hook that counts when a gradient arrives, unless counting has ended."""

        def arrived(gradient: Tensor) -> None:
            self.add(side, flops())

        return arrived


def _multiplies(module: nn.Module) -> bool:
    """Whether a module multiplies with a matrix: torch's linear layer, or transformers' Conv1D."""
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@contextlib.contextmanager
def training(target: LoadedModel, processes: Processes = ALONE) -> Iterator[None]:
    """Tell the meter, if there is one, that what runs inside is repeated step by step.

    Arguments:
        target: what trains, which may be a copy of the meter's target.
        processes: that share the work inside; each counts that of all.
    """
    meter = _current.get()
    if meter is None:
        yield
        return
    meter._look_at(target, TARGET)
    passes, read = dict(meter.passes), set(meter._read)
    meter._training = True
    try:
        yield
        if processes.several:
            meter._add_others(processes, passes, read)
    finally:
        meter._training = False


def report(flops: int, side: str = TARGET) -> None:
    """Count operations that no module shows, e.g. a large product of plain tensors."""
    meter = _current.get()
    if meter is not None:
        meter.add(side, flops)


@contextlib.contextmanager
def uncounted() -> Iterator[None]:
    """Let what runs inside go uncounted, because it is counted as a reading."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


@attrs.frozen(eq=False)
class RowCosts:
    """Counts rows of a split as they are read.

    Arguments:
        side: whose states or logits they are.
        split: the rows.
        cost: of the model's forward pass.
        logits: whether the LM head is read too.
    """

    side: str
    split: EncodedSplit
    cost: ForwardCost
    logits: bool = False

    def __call__(self, rows: Sequence[int]) -> None:
        """Count the rows that were not read before."""
        for row in rows if _current.get() is not None else ():
            item = self.split.items[row]
            place = (self.side, self.split.name, item.id)
            needed((*place, "blocks"), {self.side: self.cost.blocks_flops([len(item.input_ids)])})
            if self.logits:
                flops = self.cost.head_flops(item.supervised_count)
                needed((*place, "head"), {self.side: flops})


def with_cost(
    models: tuple[LoadedModel, LoadedModel], compute: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """Compute a reading, and put what it cost beside its tensors, under `COST`."""
    import torch

    with Meter(*models).counting() as meter:
        tensors = compute()
    cost = [float(meter.flops(SOURCE)), float(meter.flops(TARGET))]
    return {**tensors, COST: torch.tensor(cost, dtype=torch.float64)}


def cost_of(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return by side what a reading cost; empty where that was not kept."""
    kept = tensors.get(COST)
    if kept is None:
        return {}
    return dict(zip((SOURCE, TARGET), (int(flops) for flops in kept.tolist()), strict=True))


def without_cost(key: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a reading's own tensors, and count what it cost unless this arm had it already."""
    needed((key,), cost_of(tensors))
    return {name: tensor for name, tensor in tensors.items() if name != COST}


def needed(key: tuple[str, ...], flops: Mapping[str, int]) -> None:
    """Tell the meter, if there is one, of a reading; it counts each key once."""
    meter = _current.get()
    if meter is not None:
        meter.needed(key, flops)

"""One training loop for every strategy, so that equal budgets mean equal work."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit import meter
from pktkit.distributed.engine import Moving
from pktkit.distributed.placing import laid_out
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import UsageError
from pktkit.training.forward_modes import checkpointing
from pktkit.training.gradients import Gradient

if TYPE_CHECKING:
    from torch import nn

    from pktkit.budget import Budget
    from pktkit.pair import LoadedModel
    from pktkit.probe import Probe
    from pktkit.training.gradients import Objective


@attrs.frozen(eq=False)
class TransferData:
    """What an injector may learn from.

    Arguments:
        probe: readings of both models; its split `train` holds the rows.
        rows: rows of the probe's `train` split that this run may use.
        budget: steps, batch size, learning rate.
        seed: order of the rows and every random start.
        progress: called with (step, steps, loss).
        processes: that train together; alone by default.
        trial: take only so many steps, spread over the run, to learn what it costs; 0 for all.
    """

    probe: Probe
    rows: tuple[int, ...]
    budget: Budget
    seed: int
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None
    processes: Processes = ALONE
    trial: int = 0

    @property
    def steps(self) -> Sequence[int]:
        """The steps that are taken, 0-based."""
        if self.trial == 0:
            return range(self.budget.steps)
        return [i * self.budget.steps // self.trial for i in range(self.trial)]


@attrs.frozen(eq=False)
class Auxiliary:
    """Parameters that train beside the target and are thrown away after.

    Their gradients are clipped on their own, so that they do not change the target's.

    Arguments:
        parameters: what AdamW updates besides the target.
        rate: their learning rate as a multiple of the budget's.
    """

    parameters: list[nn.Parameter] = attrs.field(factory=list)
    rate: float = 1.0

    @property
    def count(self) -> int:
        """How many numbers they are."""
        return sum(parameter.numel() for parameter in self.parameters)


@attrs.frozen
class TrainingLog:
    """What a run did.

    Arguments:
        steps: optimiser steps.
        tokens: tokens read by all processes, padding not counted.
        losses: mean of each loss term over tenths of the run.
    """

    steps: int
    tokens: int
    losses: Mapping[str, Sequence[float]]


def row_order(rows: Sequence[int], per_step: int, seed: int) -> Iterator[list[int]]:
    """Yield row groups for ever: every epoch is a fresh permutation, groups cross epochs.

    Raises:
        UsageError: there are no rows.
    """
    import torch

    if not rows:
        raise UsageError("there are no rows to train on; check the budget's rows and the split.")
    generator = torch.Generator().manual_seed(seed)
    pending: list[int] = []
    while True:
        while len(pending) < per_step:
            order = torch.randperm(len(rows), generator=generator).tolist()
            pending.extend(rows[i] for i in order)
        yield pending[:per_step]
        pending = pending[per_step:]


def train(
    target: LoadedModel,
    parameters: Sequence[nn.Parameter],
    data: TransferData,
    objective: Objective,
    *,
    active: Callable[[float], Sequence[nn.Parameter] | None] = lambda share: None,
    model: Any = None,
    auxiliary: Auxiliary | None = None,
) -> TrainingLog:
    """Minimise an objective over the rows of `data` within its budget.

    A step's micro-batches together have the gradient of the whole batch, as far as terms are
    means over tokens; what a term computes across tokens (a mean, a Gram matrix) is the
    micro-batch's own. Several processes come to what one would, except for dropout, which each
    draws for itself.

    Arguments:
        target: the model in training; its blocks are recorded.
        parameters: what AdamW updates.
        data: rows, budget, seed.
        objective: loss terms.
        active: at a share of the run, the parameters that may move, or None for all; used by
            schedules that train one block at a time. The others keep their bits: no gradient,
            no momentum and no weight decay reaches them.
        model: what to call instead of `target.model` (a wrapper around it).
        auxiliary: parameters of the objective's own.

    Raises:
        NonFiniteError: a loss or gradient is not finite; names step and items.
        StrategyError: the budget asks for checkpointing, which the target cannot do.
        UsageError: micro-batches have fewer rows than there are processes.
        LaunchError: processes were given different budgets.
    """
    processes = data.processes
    processes.require_rows(data.budget)
    processes.require_same("the budget", str(data.budget))
    beside = auxiliary or Auxiliary()
    called = target.model if model is None else model
    processes.copy_from_main(beside.parameters)
    groups = row_order(data.rows, data.budget.batch_size, data.seed)
    history = []
    with (
        _restored_flags(parameters),
        laid_out(target, called, parameters, processes) as layout,
        _training_mode(layout.called, data.seed + processes.rank),
        checkpointing(layout.target, on=data.budget.checkpointing),
        meter.training(layout.target, processes),
    ):
        phases = [active(step / data.budget.steps) for step in data.steps]
        moving = Moving(
            layout.place(parameters),
            beside.parameters,
            beside.rate,
            [layout.place(chosen) for chosen in phases if chosen is not None],
        )
        engine = layout.engine(moving, data.budget, processes)
        gradient = Gradient(
            layout.target,
            layout.called,
            objective,
            data.probe.encoded("train"),
            data.budget,
            engine,
            layout.device,
            processes,
        )
        for step, chosen, rows in zip(data.steps, phases, groups, strict=False):
            engine.let_move(None if chosen is None else layout.place(chosen))
            done = gradient.accumulate(rows, step)
            engine.step(step, done.ids)
            layout.stepped()
            history.append(done)
            data.progress(step + 1, data.budget.steps, sum(done.losses.values()))
    return TrainingLog(
        steps=len(history),
        tokens=sum(done.tokens for done in history),
        losses=_by_tenths([done.losses for done in history]),
    )


@contextlib.contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the context and put its random state back after; None changes nothing."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _training_mode(model: nn.Module, seed: int) -> Iterator[None]:
    """Switch dropout on, drawn from `seed`; the mode is as before after."""
    was_training = model.training
    model.train()
    try:
        with seeded(seed):
            yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _restored_flags(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _by_tenths(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return each term's means over tenths of the run; steps without the term count as 0."""
    names = dict.fromkeys(name for sums in history for name in sums)
    return {name: _tenths([sums.get(name, 0.0) for sums in history]) for name in names}


def _tenths(values: Sequence[float]) -> list[float]:
    """Return means over ten equal parts (fewer when there are fewer values)."""
    parts = min(10, len(values))
    edges = [round(i * len(values) / parts) for i in range(parts + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]

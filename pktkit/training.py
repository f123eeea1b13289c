"""One training loop for every strategy, so that equal budgets mean equal work."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from pktkit.encoding import collate, padding_id
from pktkit.errors import NonFiniteError, UsageError
from pktkit.forward_modes import autocast, checkpointing
from pktkit.recording import forward, record

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from pktkit.budget import Budget
    from pktkit.encoding import Batch
    from pktkit.pair import LoadedModel
    from pktkit.probe import Probe
    from pktkit.recording import Recording


@attrs.frozen(eq=False)
class TransferData:
    """What an injector may learn from.

    Arguments:
        probe: readings of both models; its split `train` holds the rows.
        rows: rows of the probe's `train` split that this run may use.
        budget: steps, batch size, learning rate.
        seed: order of the rows and every random start.
        progress: called with (step, steps, loss).
    """

    probe: Probe
    rows: tuple[int, ...]
    budget: Budget
    seed: int
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None


@attrs.frozen(eq=False)
class StepView:
    """What an objective sees of one micro-batch.

    Arguments:
        batch: the rows.
        logits: `[tokens, V]` at the predicting positions.
        recording: states of the recorded blocks at the same positions.
        share: how much of the run is done, 0 to 1.
    """

    batch: Batch
    logits: Tensor
    recording: Recording
    share: float


class Objective(Protocol):
    """The loss of one run."""

    def blocks(self, share: float) -> Sequence[int]:
        """Return the target blocks whose states are needed at this point of the run."""

    def terms(self, view: StepView) -> Mapping[str, Tensor]:
        """Return weighted loss terms; their sum is minimised."""


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
        tokens: tokens read, padding not counted.
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
    micro-batch's own.

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
    """
    import torch

    budget, split = data.budget, data.probe.encoded("train")
    beside = auxiliary or Auxiliary()
    called = target.model if model is None else model
    pad, device = padding_id(target.tokenizer), parameters[0].device
    optimiser = _optimiser(parameters, beside, budget)
    groups = row_order(data.rows, budget.batch_size, data.seed)
    tokens, history = 0, []
    with (
        _training_mode(called, data.seed),
        checkpointing(target, on=budget.checkpointing),
        _restored_flags(parameters),
    ):
        for step in range(budget.steps):
            share = step / budget.steps
            for group, multiple in zip(optimiser.param_groups, (1.0, beside.rate), strict=False):
                group["lr"] = budget.rate(step) * multiple
            _let_move(parameters, active(share))
            sums: dict[str, float] = defaultdict(float)
            rows = next(groups)
            parts = [rows[i :: budget.accumulate] for i in range(budget.accumulate)]
            supervised = sum(split.items[row].supervised_count for row in rows)
            for part in (p for p in parts if p):
                batch = collate(split, part, pad_id=pad, device=device)
                tokens += batch.tokens
                weight = (
                    len(batch.gold) / supervised
                )  # so that parts add up to the mean over tokens
                terms = _loss_terms(called, target, batch, objective, share, budget.autocast)
                loss = torch.stack(list(terms.values())).sum() * weight
                _require_finite(loss, "loss", step, batch)
                loss.backward()
                for name, term in terms.items():
                    sums[name] += float(term.detach()) * weight
            for clipped in (parameters, beside.parameters):
                norm = torch.nn.utils.clip_grad_norm_(clipped, budget.clip)
                _require_finite(norm, "gradient", step, batch)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            history.append(sums)
            data.progress(step + 1, budget.steps, sum(sums.values()))
    return TrainingLog(budget.steps, tokens, _by_tenths(history))


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


def _optimiser(
    parameters: Sequence[nn.Parameter], beside: Auxiliary, budget: Budget
) -> torch.optim.Optimizer:
    import torch

    groups = [list(group) for group in (parameters, beside.parameters) if group]
    return torch.optim.AdamW(
        [{"params": group} for group in groups],
        lr=budget.learning_rate,
        weight_decay=budget.weight_decay,
        fused=True,
    )


def _loss_terms(
    called: Any,
    target: LoadedModel,
    batch: Batch,
    objective: Objective,
    share: float,
    precision: str,
) -> Mapping[str, Tensor]:
    """Run the model in the precision asked for; losses are computed outside of it."""
    with (
        record(target.anatomy, objective.blocks(share), batch) as recording,
        autocast(precision, batch.input_ids.device),
    ):
        logits = forward(called, batch)
    return objective.terms(StepView(batch, logits, recording, share))


def _let_move(parameters: Sequence[nn.Parameter], active: Sequence[nn.Parameter] | None) -> None:
    """Require gradients of the active parameters only, which spares the others' backward pass."""
    moving = None if active is None else {id(parameter) for parameter in active}
    for parameter in parameters:
        parameter.requires_grad_(moving is None or id(parameter) in moving)


@contextlib.contextmanager
def _restored_flags(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _require_finite(value: torch.Tensor, what: str, step: int, batch: Batch) -> None:
    if not bool(value.detach().isfinite()):
        listed = ", ".join(batch.ids[:4]) + (" …" if len(batch.ids) > 4 else "")
        raise NonFiniteError(
            f"the {what} is {float(value.detach()):g} at step {step + 1}, batch of items {listed}. "
            "Lower the learning rate, or try --dtype float32."
        )


def _by_tenths(history: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return each term's means over tenths of the run; steps without the term count as 0."""
    names = dict.fromkeys(name for sums in history for name in sums)
    return {name: _tenths([sums.get(name, 0.0) for sums in history]) for name in names}


def _tenths(values: Sequence[float]) -> list[float]:
    """Return means over ten equal parts (fewer when there are fewer values)."""
    parts = min(10, len(values))
    edges = [round(i * len(values) / parts) for i in range(parts + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]

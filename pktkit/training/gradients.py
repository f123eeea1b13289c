"""The gradient of one step: what an objective gives, micro-batch by micro-batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from pktkit.activations.recording import forward, record
from pktkit.distributed.engine import Engine, require_finite
from pktkit.distributed.processes import ALONE, Processes
from pktkit.encoding import collate, padding_id
from pktkit.training.forward_modes import autocast
from pktkit.training.step_view import SharedView, StepView

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pktkit.budget import Budget
    from pktkit.encoding import Batch, EncodedSplit
    from pktkit.pair import LoadedModel


class Objective(Protocol):
    """The loss of one run."""

    def blocks(self, share: float) -> Sequence[int]:
        """Return the target blocks whose states are needed at this point of the run."""

    def terms(self, view: StepView) -> Mapping[str, Tensor]:
        """Return weighted loss terms; their sum is minimised."""


@attrs.frozen(eq=False)
class StepDone:
    """What the passes of one step came to; the gradient is in the parameters.

    Arguments:
        losses: mean of each loss term over the step's supervised tokens.
        tokens: tokens read, padding not counted.
        ids: items read.
    """

    losses: Mapping[str, float]
    tokens: int
    ids: Sequence[str]


@attrs.frozen(eq=False)
class Gradient:
    """The gradient of an objective, one step after another.

    Arguments:
        target: its blocks are recorded.
        called: computes the logits.
        objective: loss terms.
        split: the rows.
        budget: of the run.
        engine: takes the gradients.
        device: of the batches.
        processes: that each run the model on a share of every micro-batch.
    """

    target: LoadedModel
    called: Any
    objective: Objective
    split: EncodedSplit
    budget: Budget
    engine: Engine
    device: torch.device
    processes: Processes = ALONE

    def accumulate(self, rows: Sequence[int], step: int) -> StepDone:
        """Give the engine the gradient of a step's rows, micro-batch by micro-batch.

        Raises:
            NonFiniteError: a loss is not finite.
        """
        micro_batches = min(self.budget.accumulate, len(rows))
        supervised = sum(self.split.items[row].supervised_count for row in rows)
        losses: dict[str, float] = defaultdict(float)
        tokens, ids = 0, list[str]()
        for part in (rows[i::micro_batches] for i in range(micro_batches)):
            # so that parts add up to the mean over tokens
            weight = sum(self.split.items[row].supervised_count for row in part) / supervised
            passed = _Pass(self, part, step / self.budget.steps, weight)
            loss = self.engine.loss(passed.loss)
            require_finite(loss, "loss", step, passed.view.batch.ids)
            ids += passed.view.batch.ids
            self.engine.backward(loss, last=len(ids) == len(rows))
            for name, term in passed.terms.items():
                losses[name] += float(term.detach()) * weight
            tokens += passed.view.batch.tokens
        return StepDone(losses, tokens, ids)

    def view(self, rows: Sequence[int], share: float) -> StepView:
        """Run the model on this process's share of the rows."""
        if not self.processes.several:
            return self._run(self._batch(rows), share)
        parts = self.processes.split(rows)
        own = self._run(self._batch(parts[self.processes.rank]), share)
        items = self.split.items
        tokens = [sum(items[row].supervised_count for row in part) for part in parts]
        return SharedView(own, self._batch(rows), self.processes, tokens)

    def _batch(self, rows: Sequence[int]) -> Batch:
        pad = padding_id(self.target.tokenizer)
        return collate(self.split, rows, pad_id=pad, device=self.device)

    def _run(self, batch: Batch, share: float) -> StepView:
        """Run the model in the precision asked for; losses are computed outside of it."""
        with (
            record(self.target.anatomy, self.objective.blocks(share), batch) as recording,
            autocast(self.budget.autocast, batch.input_ids.device),
        ):
            logits = forward(self.called, batch)
        return StepView(batch, logits, recording, share)


@attrs.define(eq=False)
class _Pass:
    """A micro-batch: its loss, and what was seen on the way there."""

    gradient: Gradient
    rows: Sequence[int]
    share: float
    weight: float
    view: StepView = attrs.field(init=False)
    terms: Mapping[str, Tensor] = attrs.field(init=False)

    def loss(self) -> Tensor:
        """Run the model and return the weighted loss."""
        import torch

        self.view = self.gradient.view(self.rows, self.share)
        self.terms = self.gradient.objective.terms(self.view)
        return torch.stack(list(self.terms.values())).sum() * self.weight

"""The gradient of one step: what an objective gives, micro-batch by micro-batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from pktkit.activations.recording import forward, record
from pktkit.distributed.processes import ALONE, Processes
from pktkit.encoding import collate, padding_id
from pktkit.errors import NonFiniteError
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
        device: of the batches.
        processes: that each run the model on a share of every micro-batch.
    """

    target: LoadedModel
    called: Any
    objective: Objective
    split: EncodedSplit
    budget: Budget
    device: torch.device
    processes: Processes = ALONE

    def accumulate(self, rows: Sequence[int], step: int) -> StepDone:
        """Add the gradient of a step's rows to the parameters, micro-batch by micro-batch.

        With several processes it is the sum of all of theirs that still is to be averaged.

        Raises:
            NonFiniteError: a loss is not finite.
        """
        import torch

        micro_batches = min(self.budget.accumulate, len(rows))
        supervised = sum(self.split.items[row].supervised_count for row in rows)
        losses: dict[str, float] = defaultdict(float)
        tokens, ids = 0, list[str]()
        for part in (rows[i::micro_batches] for i in range(micro_batches)):
            view = self._view(part, step / self.budget.steps)
            terms = self.objective.terms(view)
            # so that parts add up to the mean over tokens
            weight = len(view.batch.gold) / supervised
            loss = torch.stack(list(terms.values())).sum() * weight
            require_finite(loss, "loss", step, view.batch.ids)
            loss.backward()
            for name, term in terms.items():
                losses[name] += float(term.detach()) * weight
            tokens += view.batch.tokens
            ids += view.batch.ids
        return StepDone(losses, tokens, ids)

    def _view(self, rows: Sequence[int], share: float) -> StepView:
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


def require_finite(value: Tensor, what: str, step: int, ids: Sequence[str]) -> None:
    """Refuse a loss or a gradient norm that is not finite.

    Raises:
        NonFiniteError: it is not; names step and items.
    """
    if not bool(value.detach().isfinite()):
        listed = ", ".join(ids[:4]) + (" …" if len(ids) > 4 else "")
        raise NonFiniteError(
            f"the {what} is {float(value.detach()):g} at step {step + 1}, batch of items {listed}. "
            "Lower the learning rate, or try --dtype float32."
        )

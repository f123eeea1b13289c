"""The gradient of one step: what an objective sees and gives, micro-batch by micro-batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from pktkit.encoding import collate, padding_id
from pktkit.errors import NonFiniteError
from pktkit.forward_modes import autocast
from pktkit.recording import forward, record

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pktkit.encoding import Batch
    from pktkit.pair import LoadedModel
    from pktkit.recording import Recording
    from pktkit.training import TransferData


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
        data: the rows' split and the budget.
        device: of the batches.
    """

    target: LoadedModel
    called: Any
    objective: Objective
    data: TransferData
    device: torch.device

    def accumulate(self, rows: Sequence[int], step: int) -> StepDone:
        """Add the gradient of a step's rows to the parameters, micro-batch by micro-batch.

        Raises:
            NonFiniteError: a loss is not finite.
        """
        import torch

        split, micro_batches = self.data.probe.encoded("train"), self.data.budget.accumulate
        supervised = sum(split.items[row].supervised_count for row in rows)
        pad = padding_id(self.target.tokenizer)
        losses: dict[str, float] = defaultdict(float)
        tokens, ids = 0, list[str]()
        for part in (rows[i::micro_batches] for i in range(min(micro_batches, len(rows)))):
            batch = collate(split, part, pad_id=pad, device=self.device)
            # so that parts add up to the mean over tokens
            weight = len(batch.gold) / supervised
            terms = self._terms(batch, step / self.data.budget.steps)
            loss = torch.stack(list(terms.values())).sum() * weight
            require_finite(loss, "loss", step, batch.ids)
            loss.backward()
            for name, term in terms.items():
                losses[name] += float(term.detach()) * weight
            tokens += batch.tokens
            ids += batch.ids
        return StepDone(losses, tokens, ids)

    def _terms(self, batch: Batch, share: float) -> Mapping[str, Tensor]:
        """Run the model in the precision asked for; losses are computed outside of it."""
        with (
            record(self.target.anatomy, self.objective.blocks(share), batch) as recording,
            autocast(self.data.budget.autocast, batch.input_ids.device),
        ):
            logits = forward(self.called, batch)
        return self.objective.terms(StepView(batch, logits, recording, share))


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

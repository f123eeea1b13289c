"""The steering loss: layer terms against aligned states, and an output term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch.nn import functional

from pktkit.errors import StrategyError
from pktkit.objectives import OUTPUT_TERMS, OutputTerm
from pktkit.values import TargetStates

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import Batch
    from pktkit.probe import StateReader
    from pktkit.training import StepView, TransferData


def cosine_distance(states: Tensor, wanted: Tensor) -> Tensor:
    """Return `1 − mean cos`, over tokens `[tokens, D]`, in fp32. Zero states count as cos 0."""
    return 1 - functional.cosine_similarity(states.float(), wanted.float(), dim=-1).mean()


def centred_cosine_distance(states: Tensor, wanted: Tensor) -> Tensor:
    """Return `1 − mean cos` after subtracting each side's mean over the batch's tokens.

    Without centring the cosine mostly measures the mean direction, which all tokens share.
    """
    return cosine_distance(states - states.mean(dim=0), wanted - wanted.mean(dim=0))


LAYER_TERMS = {"cosine": cosine_distance, "centred-cosine": centred_cosine_distance}


def item_permutation(rows: int, seed: int) -> list[int]:
    """Return a random cyclic order of all rows: every row reads another row, if there is one."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator).tolist()
    other = [0] * rows
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        other[here] = there
    return other


@attrs.define(eq=False)
class Steering:
    """Pulls the target's block states towards aligned states while it learns its task.

    Arguments:
        states: aligned states by target block.
        reader: reads the origin's states by row.
        layer_term: distance of recorded and aligned states.
        layer_weight: multiplies the mean of the layer terms over blocks.
        output_term: loss on the logits.
        answers_only: leave out the position that predicts the end of the sequence, whose state
            is about stopping.
        other: for the shuffled placebo, which row stands in for each row.
    """

    states: TargetStates
    reader: StateReader
    layer_term: str
    layer_weight: float
    output_term: OutputTerm
    answers_only: bool = True
    other: Sequence[int] = ()

    @classmethod
    def open(
        cls,
        states: TargetStates,
        data: TransferData,
        *,
        layer_term: str,
        layer_weight: float,
        output: str,
        answers_only: bool,
    ) -> Steering:
        """Open the readings that the loss needs; call it before the target changes."""
        reader = data.probe.states(
            "train", states.origin_blocks, interface=states.interface, origin=states.origin
        )
        rows = len(data.probe.encoded("train").items)
        return cls(
            states,
            reader,
            layer_term,
            layer_weight,
            OUTPUT_TERMS[output](data.probe),
            answers_only,
            item_permutation(rows, data.seed) if states.shuffle_items else (),
        )

    def blocks(self, share: float) -> Sequence[int]:
        """Return the target blocks that have aligned states."""
        return self.states.blocks

    def terms(self, view: StepView) -> Mapping[str, Tensor]:
        """Return `layer` (weighted mean over blocks) and the output terms."""
        wanted = self._read(view.batch)
        distance = LAYER_TERMS[self.layer_term]
        kept = self._kept(view.batch)
        losses = [
            distance(
                view.recording.states(block, self.states.interface)[kept],
                self.states.states(block, wanted)[kept],
            )
            for block in self.states.blocks
        ]
        layer = self.layer_weight * torch.stack(losses).mean()
        return {"layer": layer, **self.output_term(view)}

    def _read(self, batch: Batch) -> dict[int, Tensor]:
        rows = [self.other[row] for row in batch.rows] if self.other else batch.rows
        states = self.reader.read(rows, batch.counts)
        return {block: tensor.to(batch.input_ids.device) for block, tensor in states.items()}

    def _kept(self, batch: Batch) -> Tensor:
        """Return the predicting positions the layer terms look at, `[tokens]` bool."""
        if not self.answers_only or bool(batch.ending.all()):
            return torch.ones_like(batch.ending)
        return ~batch.ending


def require_states(states: TargetStates | None, injector: str) -> TargetStates:
    """Return the states, or say that this injector needs an aligner that gives them."""
    if states is None:
        raise StrategyError(
            f"injector '{injector}' steers towards target states, but the aligner gave none. "
            "Use an aligner that returns them, e.g. 'semantic'."
        )
    return states

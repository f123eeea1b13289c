"""The steering loss: layer terms against aligned states, and an output term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.errors import StrategyError
from pktkit.pair import vocab_size
from pktkit.training import Auxiliary
from pktkit.training.objectives import OUTPUT_TERMS, OutputTerm
from pktkit.values import TargetStates
from pktkit_latent.confidence import gold_confidence
from pktkit_latent.distances import Distance
from pktkit_latent.schedules import Focus, LayerSchedule
from pktkit_latent.terms import LAYER_TERMS
from pktkit_latent.wanted import RowValues, Wanted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.encoding import Batch
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData
    from pktkit.training.step_view import StepView
    from pktkit_latent.steering_options import SteeringOptions


@attrs.define(eq=False)
class Steering:
    """Pulls the target's block states towards aligned states while it learns its task.

    Statistics of a layer term (the mean that is taken off, relations among tokens) are those of
    the micro-batch: with gradient accumulation they cover its part of the step only. They cover
    the rows of all processes, which exchange states (never logits) where a term needs them all.

    Arguments:
        wanted: aligned states by row; None when the layer weight is 0.
        distance: the layer term, a mean over blocks.
        per_token: whether it is a mean over tokens, each looked at for itself.
        schedule: its weight.
        focus: which blocks are steered when.
        output_term: loss on the logits.
        output_weight: multiplies it.
        answers_only: leave out the position that predicts the end of the sequence, whose state
            is about stopping.
        readouts: by target block, the learned layer its states pass before they are compared.
        readout_rate: their learning rate as a multiple of the budget's.
        confidence: a weight per position, if positions count unequally.
    """

    wanted: Wanted | None
    distance: Distance
    per_token: bool
    schedule: LayerSchedule
    focus: Focus
    output_term: OutputTerm
    output_weight: float = 1.0
    answers_only: bool = True
    readouts: Mapping[int, nn.Linear] = attrs.field(factory=dict)
    readout_rate: float = 1.0
    confidence: RowValues | None = None

    @classmethod
    def open(
        cls,
        states: TargetStates,
        data: TransferData,
        target: LoadedModel,
        options: SteeringOptions,
        focus: Focus,
    ) -> Steering:
        """Open the readings that the loss needs; call it before the target changes."""
        head = target.anatomy.head_weight
        steered = options.layer_weight > 0
        wanted = Wanted.open(states, data, head.device) if steered else None
        confidence = None
        if wanted is not None and options.token_weight == "source-confidence":
            confidence = gold_confidence(
                data, states.origin, wanted.other, answers_only=options.answers_only
            )
        return cls(
            wanted,
            LAYER_TERMS[options.layer_term].open(head[: vocab_size(target)]),
            LAYER_TERMS[options.layer_term].per_token,
            options.schedule,
            focus,
            OUTPUT_TERMS[options.output](data.probe),
            options.output_weight,
            options.answers_only,
            _build_readouts(states, data.seed, head.device) if steered else {},
            options.readout_rate,
            confidence,
        )

    @property
    def auxiliary(self) -> Auxiliary:
        """The readouts as parameters that train beside the target."""
        layers = self.readouts.values()
        return Auxiliary([p for layer in layers for p in layer.parameters()], self.readout_rate)

    def blocks(self, share: float) -> Sequence[int]:
        """Return the target blocks whose states the loss needs now."""
        return self.focus.at(share) if self._weight(share) > 0 else ()

    def terms(self, view: StepView) -> Mapping[str, Tensor]:
        """Return `layer` and the output terms, weighted, where they count."""
        terms = {}
        weight = self._weight(view.share)
        if weight > 0:
            terms["layer"] = weight * self._layer(view)
        if self.output_weight > 0 and self.focus.output_counts(view.share):
            output = self.output_term(view)
            terms |= {name: self.output_weight * term for name, term in output.items()}
        return terms

    def _weight(self, share: float) -> float:
        return 0.0 if self.wanted is None else self.schedule.at(self.focus.within(share))

    def _layer(self, view: StepView) -> Tensor:
        assert self.wanted is not None
        blocks, kept = self.focus.at(view.share), self._kept(view.batch)
        own, mine, counts = view.own, view.within_own(kept), view.counts(kept)
        wanted = self.wanted.read(own.batch, blocks, mine)
        weights = self._weights(own.batch, mine)
        interface = self.wanted.states.interface
        states = torch.stack(
            [
                self._read_out(block, own.recording.states(block, interface, mine))
                for block in blocks
            ]
        )
        if self.per_token and min(counts):
            return view.mean(lambda own: self.distance(states, wanted, weights), counts)
        return self.distance(
            view.gather(states, counts, dim=1),
            view.gather(wanted, counts, dim=1),
            None if weights is None else view.gather(weights, counts),
        )

    def _read_out(self, block: int, states: Tensor) -> Tensor:
        precise = states.float()
        return self.readouts[block](precise) if block in self.readouts else precise

    def _weights(self, batch: Batch, kept: Tensor) -> Tensor | None:
        if self.confidence is None:
            return None
        return self.confidence.read(batch.rows, self.confidence.names, kept)[0]

    def _kept(self, batch: Batch) -> Tensor:
        """Return which predicting positions the layer terms look at, `[kept]` int64.

        All of them in a batch that predicts nothing but ends of sequences.
        """
        if self.answers_only and not bool(batch.ending.all()):
            return (~batch.ending).nonzero().squeeze(1)
        return torch.arange(len(batch.ending), device=batch.ending.device)


def _build_readouts(states: TargetStates, seed: int, device: torch.device) -> dict[int, nn.Linear]:
    return {
        block: states.readouts[block].build(seed=seed + block, device=device)
        for block in states.blocks
        if block in states.readouts
    }


def require_states(states: TargetStates | None, injector: str) -> TargetStates:
    """Return the states, or say that this injector needs an aligner that gives them."""
    if states is None or not states.maps:
        raise StrategyError(
            f"injector '{injector}' steers towards target states, but the aligner gave none. "
            "Use an aligner that returns them, e.g. 'semantic'."
        )
    return states

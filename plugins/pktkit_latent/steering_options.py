"""The options that all steering injectors share; only their defaults differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.errors import StrategyError, UsageError
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.training.adapters import LoraShape
from pktkit.training.capacity import TRAINED
from pktkit.training.objectives import OUTPUT_TERMS, reads_source
from pktkit.values import Space, TargetStates
from pktkit_latent.schedules import SHAPES, LayerSchedule
from pktkit_latent.terms import LAYER_TERMS

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel, ModelPair

PUBLISHED_KINDS = ("up", "down", "v", "o")
"""Projections that carry LoRA in the published experiments."""

TOKEN_WEIGHTS = ("uniform", "source-confidence")


@attrs.frozen
class SteeringOptions:
    """Settings of steering; the defaults are those of all-blocks."""

    layer_term: str = option(
        "centred-cosine",
        "Distance of block states; relation and cka also compare states of different widths.",
        choices=tuple(LAYER_TERMS),
    )
    layer_weight: float = option(
        20.0, "Weight of the layer term, a mean over blocks.", validator=validators.ge(0)
    )
    layer_schedule: str = option("constant", "How the layer weight decays.", choices=tuple(SHAPES))
    layer_until: float = option(
        1.0,
        "Share of the run (frontier: of each stage) after which the layer term is off; a decay "
        "ends there.",
        validator=validators.and_(validators.gt(0), validators.le(1)),
    )
    token_weight: str = option(
        "uniform",
        "Weight of each position in the layer term: equal, or the source's probability of the "
        "gold token, with mean 1 over the rows.",
        choices=TOKEN_WEIGHTS,
    )
    output: str = option("cross-entropy", "Loss on the logits.", choices=tuple(OUTPUT_TERMS))
    output_weight: float = option(
        1.0, "Weight of the loss on the logits.", validator=validators.ge(0)
    )
    answers_only: bool = option(True, "Leave the end-of-sequence position out of layer terms.")
    blocks: tuple[int, ...] = option((), "Target blocks to steer, 0-based; empty for all linked.")
    train: str = option("full", "What may move: the weights, or a LoRA adapter.", choices=TRAINED)
    rank: int = option(16, "LoRA rank.", validator=validators.ge(1))
    alpha: float = option(
        16.0, "LoRA alpha; the update is scaled by alpha / rank.", validator=validators.gt(0)
    )
    modules: tuple[str, ...] = option((), "Projections that carry LoRA; empty for all.")
    readout_rate: float = option(
        1.0,
        "Learning rate of learned readouts, as a multiple of the budget's.",
        validator=validators.gt(0),
    )

    def __attrs_post_init__(self) -> None:
        if self.output_weight == 0 and (self.layer_weight == 0 or self.layer_until < 1):
            raise UsageError(
                f"with output_weight 0, layer_weight {self.layer_weight:g} and layer_until "
                f"{self.layer_until:g} a part of the run has no loss. Raise output_weight, or set "
                "layer_until to 1 and layer_weight above 0."
            )
        if self.token_weight != "uniform" and not LAYER_TERMS[self.layer_term].paired:
            raise UsageError(
                f"layer_term {self.layer_term} is about relations among tokens and has no weight "
                f"per token, but token_weight is {self.token_weight}. Use one of "
                f"{_listed(paired=True)}, or token_weight uniform."
            )

    @property
    def schedule(self) -> LayerSchedule:
        """The weight of the layer term over the run."""
        return LayerSchedule(self.layer_weight, self.layer_schedule, self.layer_until)

    @property
    def lora(self) -> LoraShape | None:
        """The adapter to train; None trains the weights themselves."""
        if self.train == "full":
            return None
        return LoraShape(rank=self.rank, alpha=self.alpha, kinds=self.modules)

    def touches(self, target: LoadedModel, blocks: int | None = None) -> Touched:
        """Return what training moves: `blocks` of the target's blocks; None for the whole."""
        if self.lora is not None:
            return Touched.adapter(target, self.lora, blocks=blocks, states=True)
        return Touched.whole(target, blocks=blocks, states=True)

    def require_logits(self, pair: ModelPair) -> None:
        """Refuse different tokenizers where the source's logits are read.

        Raises:
            PairIncompatibleError: a term, or the weight of positions, needs them.
        """
        weighted = self.token_weight == "source-confidence" and self.layer_weight > 0
        if reads_source(self.output) or weighted:
            pair.require_logits()

    def chosen(self, states: TargetStates) -> TargetStates:
        """Return the states of the blocks to steer.

        Raises:
            StrategyError: a block is not linked, or the layer term cannot compare the states.
        """
        chosen = states
        if self.blocks:
            chosen = _restricted(states, self.blocks)
        if self.layer_weight > 0:
            _require_comparable(self.layer_term, chosen)
        return chosen


def default(name: str, value: Any) -> Any:
    """Declare a shared option again, with another default and all else the same."""
    field: Any = attrs.fields_dict(SteeringOptions)[name]
    return attrs.field(default=value, validator=field.validator, metadata=field.metadata)


def _restricted(states: TargetStates, blocks: tuple[int, ...]) -> TargetStates:
    depth = states.layer_map.target_blocks
    linked = ", ".join(map(str, states.blocks))
    for block in blocks:
        if not 0 <= block < depth:
            raise StrategyError(
                f"option blocks names target block {block}, but the target has blocks "
                f"0..{depth - 1}; linked are {linked}."
            )
        if block not in states.maps:
            raise StrategyError(
                f"option blocks names target block {block}, which the layer map does not link; "
                f"linked are {linked}."
            )
    return attrs.evolve(
        states,
        maps={block: states.maps[block] for block in blocks},
        readouts={block: r for block, r in states.readouts.items() if block in blocks},
    )


def _require_comparable(name: str, states: TargetStates) -> None:
    """Refuse a layer term that needs states in one space where they are not.

    Raises:
        StrategyError: names the terms that would work.
    """
    term = LAYER_TERMS[name]
    if term.in_target_space and states.space is not Space.TARGET:
        raise StrategyError(
            f"layer term '{name}' reads states through the target's LM head, but the aligner "
            f"leaves them in the space of the {states.origin.value}. "
            f"Use one of {_listed(paired=False, more=states.comparable)}."
        )
    if term.paired and not states.comparable:
        raise StrategyError(
            f"layer term '{name}' compares states one by one, but the aligner leaves them in the "
            f"space of the {states.origin.value} and has no readout for every block. "
            f"Use one of {_listed(paired=False)}, or an aligner that maps into the target's space."
        )


def _listed(*, paired: bool, more: bool = False) -> str:
    """Name the terms that are paired or not; with `more`, also the paired ones of any space."""
    return ", ".join(
        name
        for name, term in LAYER_TERMS.items()
        if term.paired is paired or (more and not term.in_target_space)
    )

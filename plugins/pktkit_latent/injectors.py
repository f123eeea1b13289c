"""Steering injectors: one block as published, or all blocks together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.adapters import LoraShape
from pktkit.capacity import TRAINED, trainable
from pktkit.objectives import OUTPUT_TERMS
from pktkit.options import option
from pktkit.training import train
from pktkit.values import Alignment, Injection, TargetStates
from pktkit_latent.objectives import LAYER_TERMS, Steering, require_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData

PUBLISHED_KINDS = ("up", "down", "v", "o")
"""Projections that carry LoRA in the published experiments."""


@attrs.frozen
class OneBlockOptions:
    """Settings of one-block steering; the defaults are the published form."""

    layer_term: str = option("cosine", "Distance of block states.", choices=tuple(LAYER_TERMS))
    layer_weight: float = option(1.0, "Weight of the layer term.", validator=validators.ge(0))
    output: str = option("cosine", "Loss on the logits.", choices=tuple(OUTPUT_TERMS))
    answers_only: bool = option(False, "Leave the end-of-sequence position out of layer terms.")
    train: str = option("lora", "What may move inside the block.", choices=TRAINED)
    rank: int = option(16, "LoRA rank.", validator=validators.ge(1))
    alpha: float = option(16.0, "LoRA alpha; the update is scaled by alpha / rank.")
    modules: tuple[str, ...] = option(PUBLISHED_KINDS, "Projections that carry LoRA.")


class OneBlockInjector:
    """Trains the parameters of one target block (arXiv 2510.24208 v1).

    Loss: `1 − mean cos(h_k, h*) + 1 − mean cos(logits, one-hot label)`, unweighted, over the
    supervised positions. Gradients flow through the whole target; only block k moves.
    """

    Options = OneBlockOptions

    def __init__(self, options: OneBlockOptions) -> None:
        self.options = options

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Steer the deepest linked block.

        Raises:
            StrategyError: the alignment has no target states.
            NonFiniteError: a loss or gradient is not finite.
        """
        states = require_states(alignment.target_states, "one-block")
        block = states.blocks[-1]
        states = attrs.evolve(states, maps={block: states.maps[block]})
        return _steer("one-block", self.options, states, target, data, journal, blocks=[block])


@attrs.frozen
class AllBlocksOptions:
    """Settings of all-blocks steering."""

    layer_term: str = option(
        "centred-cosine", "Distance of block states.", choices=tuple(LAYER_TERMS)
    )
    layer_weight: float = option(20.0, "Weight of the mean layer term.", validator=validators.ge(0))
    output: str = option("cross-entropy", "Loss on the logits.", choices=tuple(OUTPUT_TERMS))
    answers_only: bool = option(True, "Leave the end-of-sequence position out of layer terms.")
    train: str = option("full", "What may move: all weights, or a LoRA adapter.", choices=TRAINED)
    rank: int = option(16, "LoRA rank.", validator=validators.ge(1))
    alpha: float = option(16.0, "LoRA alpha; the update is scaled by alpha / rank.")
    modules: tuple[str, ...] = option((), "Projections that carry LoRA; empty for all.")


class AllBlocksInjector:
    """Trains the whole target with a layer term at every linked block."""

    Options = AllBlocksOptions

    def __init__(self, options: AllBlocksOptions) -> None:
        self.options = options

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Steer all linked blocks at once.

        Raises:
            StrategyError: the alignment has no target states.
            NonFiniteError: a loss or gradient is not finite.
        """
        states = require_states(alignment.target_states, "all-blocks")
        return _steer("all-blocks", self.options, states, target, data, journal, blocks=None)


def _steer(
    method: str,
    options: OneBlockOptions | AllBlocksOptions,
    states: TargetStates,
    target: LoadedModel,
    data: TransferData,
    journal: Journal,
    *,
    blocks: Sequence[int] | None,
) -> Injection:
    objective = Steering.open(
        states,
        data,
        layer_term=options.layer_term,
        layer_weight=options.layer_weight,
        output=options.output,
        answers_only=options.answers_only,
    )
    shape = None
    if options.train == "lora":
        shape = LoraShape(rank=options.rank, alpha=options.alpha, kinds=options.modules)
    with trainable(target, journal, seed=data.seed, shape=shape, blocks=blocks) as opened:
        log = train(target, opened.parameters, data, objective, model=opened.model)
        count = opened.count
    return Injection(
        method,
        steps=log.steps,
        tokens=log.tokens,
        trainable_parameters=count,
        losses=log.losses,
        diagnostics={} if blocks is None else {"blocks": list(blocks)},
    )

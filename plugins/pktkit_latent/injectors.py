"""Steering injectors: one block as published, one after another, or all blocks together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.errors import StrategyError, UsageError
from pktkit.options import option
from pktkit.training import train
from pktkit.training.capacity import Trainable, trainable
from pktkit.values import Alignment, Injection
from pktkit_latent.objectives import Steering, require_states
from pktkit_latent.schedules import Frontier, Together
from pktkit_latent.steering_options import PUBLISHED_KINDS, SteeringOptions, default

if TYPE_CHECKING:
    from torch import nn

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.prospect import Prospect
    from pktkit.touched import Touched
    from pktkit.training import TransferData


@attrs.frozen
class OneBlockOptions(SteeringOptions):
    """Settings of one-block steering; the defaults are the published form."""

    layer_term: str = default("layer_term", "cosine")
    layer_weight: float = default("layer_weight", 1.0)
    output: str = default("output", "cosine")
    answers_only: bool = default("answers_only", False)
    train: str = default("train", "lora")
    modules: tuple[str, ...] = default("modules", PUBLISHED_KINDS)
    blocks: tuple[int, ...] = option(
        (), "The target block to steer, 0-based; empty for the deepest linked."
    )


class OneBlockInjector:
    """Trains the parameters of one target block (arXiv 2510.24208 v1).

    Loss: `1 − mean cos(h_k, h*) + 1 − mean cos(logits, one-hot label)`, unweighted, over the
    supervised positions. Gradients flow through the whole target; only block k moves.
    """

    Options = OneBlockOptions

    def __init__(self, options: OneBlockOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse different tokenizers where the source's logits are read."""
        self.options.require_logits(prospect.pair)

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what training moves."""
        return self.options.touches(target, 1)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Steer the chosen block, by default the deepest linked one.

        Raises:
            StrategyError: the alignment has no target states, or none that the layer term or
                option `blocks` can use.
            NonFiniteError: a loss or gradient is not finite.
        """
        states = require_states(alignment.target_states, "one-block")
        options = self.options
        if len(options.blocks) > 1:
            raise StrategyError(
                f"injector 'one-block' steers one block, option blocks names "
                f"{len(options.blocks)}: {', '.join(map(str, options.blocks))}. Name one, or use "
                "'frontier' or 'all-blocks'."
            )
        if not options.blocks:
            options = attrs.evolve(options, blocks=states.blocks[-1:])
        states = options.chosen(states)
        steering = Steering.open(states, data, target, options, Together(states.blocks))
        with trainable(
            target, journal, seed=data.seed, shape=options.lora, blocks=states.blocks
        ) as opened:
            return _steer("one-block", target, opened, data, steering)


@attrs.frozen
class AllBlocksOptions(SteeringOptions):
    """Settings of all-blocks steering."""


class AllBlocksInjector:
    """Trains the whole target with a layer term at every linked block."""

    Options = AllBlocksOptions

    def __init__(self, options: AllBlocksOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse different tokenizers where the source's logits are read."""
        self.options.require_logits(prospect.pair)

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what training moves."""
        return self.options.touches(target)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Steer the chosen blocks at once, by default all linked ones.

        Raises:
            StrategyError: the alignment has no target states, or none that the layer term or
                option `blocks` can use.
            NonFiniteError: a loss or gradient is not finite.
        """
        states = self.options.chosen(require_states(alignment.target_states, "all-blocks"))
        steering = Steering.open(states, data, target, self.options, Together(states.blocks))
        with trainable(target, journal, seed=data.seed, shape=self.options.lora) as opened:
            return _steer("all-blocks", target, opened, data, steering)


OUTPUT_STAGES = ("every", "last")


@attrs.frozen
class FrontierOptions(SteeringOptions):
    """Settings of frontier steering."""

    layer_term: str = default("layer_term", "fisher")
    layer_weight: float = default("layer_weight", 1.0)
    output: str = default("output", "kl")
    answers_only: bool = default("answers_only", False)
    train: str = default("train", "lora")
    modules: tuple[str, ...] = default("modules", PUBLISHED_KINDS)
    output_stage: str = option(
        "every",
        "Count the loss on the logits in every stage, or in the last stage only, where final "
        "norm and LM head then train too (with train full).",
        choices=OUTPUT_STAGES,
    )

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.output_stage == "last" and (self.layer_weight == 0 or self.layer_until < 1):
            raise UsageError(
                f"with output_stage last, layer_weight {self.layer_weight:g} and layer_until "
                f"{self.layer_until:g} some stages have no loss. Set output_stage to every, or "
                "layer_until to 1 and layer_weight above 0."
            )


class FrontierInjector:
    """Trains one block after another, shallow to deep (arXiv 2510.24208, published version).

    The run is divided into as many equal stages as blocks are steered. In stage s only the
    parameters of the s-th block move, and only its layer term counts; by default the output term
    counts in every stage. The paper is silent on what moves besides the block: nothing does,
    except that with `output_stage: last` and all weights, final norm and LM head join the last
    stage. An LM head tied to the embedding stays, since it is what every block below reads.
    """

    Options = FrontierOptions

    def __init__(self, options: FrontierOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse different tokenizers where the source's logits are read."""
        self.options.require_logits(prospect.pair)

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what training moves."""
        return self.options.touches(target, len(self.options.blocks) or target.anatomy.n_blocks)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Steer the chosen blocks in turn, by default all linked ones.

        Raises:
            StrategyError: the alignment has no target states, or none that the layer term or
                option `blocks` can use; or the run has fewer steps than blocks.
            NonFiniteError: a loss or gradient is not finite.
        """
        options = self.options
        states = options.chosen(require_states(alignment.target_states, "frontier"))
        if data.budget.steps < len(states.blocks):
            raise StrategyError(
                f"injector 'frontier' needs a step for each of {len(states.blocks)} blocks, the "
                f"budget has {data.budget.steps}. Raise budget.steps, or name fewer in blocks."
            )
        last = options.output_stage == "last"
        focus = Frontier(states.blocks, output_last=last)
        steering = Steering.open(states, data, target, options, focus)
        ends = _ends(target) if last and options.lora is None else ()
        with trainable(
            target,
            journal,
            seed=data.seed,
            shape=options.lora,
            blocks=states.blocks,
            also=ends,
        ) as opened:

            def active(share: float) -> Sequence[nn.Parameter]:
                stage = focus.stage(share)
                moving = opened.by_block[focus.blocks[stage]]
                return [*moving, *opened.also] if stage == len(focus.blocks) - 1 else moving

            return _steer("frontier", target, opened, data, steering, active)


def _ends(target: LoadedModel) -> list[str]:
    """Name the parameters of final norm and LM head that no block reads."""
    anatomy = target.anatomy
    inside = {id(p) for p in anatomy.final_norm.parameters()}
    inside |= {id(p) for p in anatomy.head.parameters()}
    inside -= {id(p) for p in anatomy.embedding.parameters()}
    return [name for name, p in target.model.named_parameters() if id(p) in inside]


def _steer(
    method: str,
    target: LoadedModel,
    opened: Trainable,
    data: TransferData,
    steering: Steering,
    active: Callable[[float], Sequence[nn.Parameter] | None] = lambda share: None,
) -> Injection:
    log = train(
        target,
        opened.parameters,
        data,
        steering,
        active=active,
        model=opened.model,
        auxiliary=steering.auxiliary,
    )
    return Injection(
        method,
        steps=log.steps,
        tokens=log.tokens,
        trainable_parameters=opened.count,
        losses=log.losses,
        diagnostics={
            "blocks": list(steering.focus.blocks),
            "readout_parameters": steering.auxiliary.count,
        },
    )

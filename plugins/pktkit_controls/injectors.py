"""Fine-tuning without any alignment: what the same rows and steps do on their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.errors import unknown_name
from pktkit.families import PROJECTIONS
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.training import train
from pktkit.training.adapters import LoraShape
from pktkit.training.capacity import TRAINED, trainable
from pktkit.training.objectives import OUTPUT_TERMS, OutputObjective, reads_source
from pktkit.values import Alignment, Injection

if TYPE_CHECKING:
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.prospect import Prospect
    from pktkit.training import TransferData

MODULES = (*PROJECTIONS, "embed", "head")


def _known_modules(instance: object, attribute: attrs.Attribute[Any], value: Sequence[str]) -> None:
    for name in value:
        if name not in MODULES:
            raise unknown_name("module", name, MODULES)


@attrs.frozen
class FineTuneOptions:
    """Settings of plain fine-tuning."""

    output: str = option("cross-entropy", "Loss on the logits.", choices=tuple(OUTPUT_TERMS))
    train: str = option("full", "What may move: all weights, or a LoRA adapter.", choices=TRAINED)
    rank: int = option(16, "LoRA rank.", validator=validators.ge(1))
    alpha: float = option(16.0, "LoRA alpha; the update is scaled by alpha / rank.")
    modules: tuple[str, ...] = option(
        (), "Projections that carry LoRA; empty for all.", validator=_known_modules
    )


class FineTuneInjector:
    """Trains the target on gold answers, on the source's predictions, or on both."""

    Options = FineTuneOptions

    def __init__(self, options: FineTuneOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse different tokenizers where the source's logits are read."""
        if reads_source(self.options.output):
            prospect.pair.require_logits()

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what training moves."""
        shape = self._shape
        return Touched.whole(target) if shape is None else Touched.adapter(target, shape)

    @property
    def _shape(self) -> LoraShape | None:
        options = self.options
        if options.train == "full":
            return None
        return LoraShape(rank=options.rank, alpha=options.alpha, kinds=options.modules)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Fine-tune the target; the alignment is not read.

        Raises:
            NonFiniteError: a loss or gradient is not finite.
            PairIncompatibleError: a KL term is asked for and the tokenizers differ.
        """
        options = self.options
        objective = OutputObjective(OUTPUT_TERMS[options.output](data.probe))
        with trainable(target, journal, seed=data.seed, shape=self._shape) as opened:
            log = train(target, opened.parameters, data, objective, model=opened.model)
            count = opened.count
        return Injection(
            "fine-tune",
            steps=log.steps,
            tokens=log.tokens,
            trainable_parameters=count,
            losses=log.losses,
        )

"""Losses on the logits, shared by all injectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.probe import LogitReader, Probe
    from pktkit.training.step_view import StepView


class OutputTerm(Protocol):
    """Loss terms computed from the logits of one micro-batch."""

    def __call__(self, view: StepView) -> Mapping[str, Tensor]:
        """Return weighted terms by name."""


def cross_entropy(view: StepView) -> dict[str, Tensor]:
    """Return the mean cross-entropy to the gold tokens, in nats."""
    return {
        "cross_entropy": view.mean(
            lambda own: functional.cross_entropy(own.logits.float(), own.batch.gold)
        )
    }


def one_hot_cosine(view: StepView) -> dict[str, Tensor]:
    """Return `1 − mean cos(logits, one-hot label)` (arXiv 2510.24208 v1)."""
    return {"output_cosine": view.mean(_one_hot_distance)}


def _one_hot_distance(view: StepView) -> Tensor:
    logits = view.logits.float()
    gold = logits.gather(1, view.batch.gold[:, None]).squeeze(1)
    return 1 - (gold / logits.norm(dim=1).clamp(min=1e-12)).mean()


@attrs.define(eq=False)
class SourceDivergence:
    """Mean `KL(source ‖ target)` over the predicting positions, in nats, at temperature 1.

    Arguments:
        reader: the source's logits.
        tokens: how many tokens both models have; logits of rows that only pad are left out.
    """

    reader: LogitReader
    tokens: int

    def __call__(self, view: StepView) -> dict[str, Tensor]:
        """Return the divergence."""
        return {"kl": view.mean(self._divergence)}

    def _divergence(self, view: StepView) -> Tensor:
        source = self.reader.read(view.batch.rows).to(view.logits.device).float()
        rows = self.tokens
        wanted = functional.log_softmax(source[:, :rows], dim=1)
        given = functional.log_softmax(view.logits[:, :rows].float(), dim=1)
        return functional.kl_div(given, wanted, reduction="batchmean", log_target=True)


@attrs.define(eq=False)
class SumOfTerms:
    """Several output terms together."""

    parts: Sequence[OutputTerm]

    def __call__(self, view: StepView) -> dict[str, Tensor]:
        """Return all parts' terms."""
        return {name: term for part in self.parts for name, term in part(view).items()}


def _source_divergence(probe: Probe) -> SourceDivergence:
    from pktkit.pair import vocab_size

    tokens = min(vocab_size(probe.pair.source), vocab_size(probe.pair.target))
    return SourceDivergence(probe.logits("train"), tokens)


OUTPUT_TERMS: Mapping[str, Callable[[Probe], OutputTerm]] = {
    "cosine": lambda probe: one_hot_cosine,
    "cross-entropy": lambda probe: cross_entropy,
    "kl": _source_divergence,
    "both": lambda probe: SumOfTerms((cross_entropy, _source_divergence(probe))),
}
"""Output terms by the name used in recipes; `both` is cross-entropy plus KL, unweighted."""


def reads_source(output: str) -> bool:
    """Return whether an output term reads the source's logits."""
    return output in ("kl", "both")


@attrs.define(eq=False)
class OutputObjective:
    """An objective without layer terms.

    Arguments:
        term: loss on the logits.
    """

    term: OutputTerm

    def blocks(self, share: float) -> Sequence[int]:
        """Return no blocks: only logits are read."""
        return ()

    def terms(self, view: StepView) -> Mapping[str, Tensor]:
        """Return the output terms."""
        return self.term(view)


@attrs.define(eq=False)
class CrossEntropy(OutputObjective):
    """Plain supervised fine-tuning."""

    term: OutputTerm = cross_entropy

"""`exact-match`: the greedy answer equals the gold answer, or the number it comes down to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError, unknown_name
from pktkit.inference.generation import generate
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.tasks.base import Item
from pktkit_benchmarks.extraction import EXTRACTORS

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Task


def score_exact_match(prediction: str, answer: str, extract: str = "all") -> float:
    """Score one prediction: 1.0 when what is extracted from it and from the answer are equal.

    Arguments:
        prediction: what the model said.
        answer: the gold answer; for numbers, any text that comes down to the number.
        extract: one of `EXTRACTORS`.

    Raises:
        UsageError: unknown extractor, or the answer holds nothing to extract.
    """
    if extract not in EXTRACTORS:
        raise unknown_name("extractor", extract, EXTRACTORS)
    expected = EXTRACTORS[extract](answer)
    if expected is None:
        raise UsageError(
            f"exact-match with extract '{extract}': the gold answer {answer!r} has no number. "
            "Use extract 'all' or correct the answer."
        )
    return float(EXTRACTORS[extract](prediction) == expected)


@attrs.frozen
class ExactMatchOptions:
    """Options of `exact-match`."""

    extract: str = option(
        "all", "What of answer and gold answer is compared.", choices=tuple(EXTRACTORS)
    )
    stops: tuple[str, ...] = option((), "Texts that end an answer.")


@attrs.frozen
class ExactMatch:
    """Generates an answer to every prompt and compares it with the gold answer.

    An item's check may hold `begin`, how every answer is made to begin.

    Arguments:
        options: what is compared, and where answers stop.
    """

    Options = ExactMatchOptions
    capabilities = Capabilities(scores_items_alone=True)
    options: ExactMatchOptions = attrs.field(factory=ExactMatchOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order.

        Raises:
            UsageError: the task has no such split, or a gold answer has no number where one is
                asked for.
        """
        items = task.items(split)
        self._check(items)
        predictions = generate(
            model,
            [item.prompt for item in items],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
            begins=[str(item.check.get("begin", "")) for item in items],
            stop=self.options.stops,
        )
        return [
            ItemScore(item.id, score_exact_match(text, item.answer, self.options.extract), text)
            for item, text in zip(items, predictions, strict=True)
        ]

    def _check(self, items: Sequence[Item]) -> None:
        """Find unusable gold answers before the model runs."""
        for item in items:
            try:
                score_exact_match("", item.answer, self.options.extract)
            except UsageError as error:
                raise UsageError(f"item '{item.id}': {error}") from error

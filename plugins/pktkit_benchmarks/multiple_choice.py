"""`multiple-choice`: the likeliest of the item's choices is the gold one; nothing is generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.inference.generation import Continuation, score_continuations
from pktkit.options import option
from pktkit.outcomes import ItemScore

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

NORMALISERS: Mapping[str, Callable[[Continuation], float]] = {
    "none": lambda choice: choice.logprob,
    "tokens": lambda choice: choice.logprob / choice.tokens,
}
"""`none`: summed log-likelihood. `tokens`: its mean, which does not favour short choices."""


def likeliest(continuations: Sequence[Continuation], normalise: str = "none") -> int:
    """Return the index of the likeliest continuation; of equals, the first.

    Arguments:
        continuations: one per choice.
        normalise: one of `NORMALISERS`.
    """
    values = [NORMALISERS[normalise](continuation) for continuation in continuations]
    return max(range(len(values)), key=values.__getitem__)


def score_choice(prediction: str, answer: str) -> float:
    """Score one prediction: 1.0 when the choice taken is the gold choice."""
    return float(prediction == answer)


@attrs.frozen
class MultipleChoiceOptions:
    """Options of `multiple-choice`."""

    normalise: str = option(
        "none",
        "Compare summed log-likelihoods, or divide them by the number of tokens.",
        choices=tuple(NORMALISERS),
    )


@attrs.frozen
class MultipleChoice:
    """Compares the likelihoods of the item's choices.

    Arguments:
        options: how likelihoods of choices of different length are compared.
    """

    Options = MultipleChoiceOptions
    capabilities = Capabilities(scores_items_alone=True)
    options: MultipleChoiceOptions = attrs.field(factory=MultipleChoiceOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order.

        Raises:
            UsageError: the task has no such split, or an item's answer is not among its choices.
        """
        items = task.items(split)
        for item in items:
            _check(item)
        scored = score_continuations(
            model,
            [item.prompt for item in items],
            [item.choices for item in items],
            join=task.template,
        )
        taken = [
            item.choices[likeliest(row, self.options.normalise)]
            for item, row in zip(items, scored, strict=True)
        ]
        return [
            ItemScore(item.id, score_choice(choice, item.answer), choice)
            for item, choice in zip(items, taken, strict=True)
        ]


def _check(item: Item) -> None:
    if len(item.choices) < 2 or len(set(item.choices)) < len(item.choices):
        raise UsageError(
            f"multiple-choice: item '{item.id}' needs two or more different choices, got "
            f"{list(item.choices)}."
        )
    if item.answer not in item.choices:
        raise UsageError(
            f"multiple-choice: the answer {item.answer!r} of item '{item.id}' is not among its "
            f"choices {list(item.choices)}."
        )

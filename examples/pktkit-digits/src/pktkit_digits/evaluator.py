"""`near-number`: partial credit for an answer that is a number close to the right one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.inference.generation import generate
from pktkit.options import option
from pktkit.outcomes import ItemScore

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Task

_WHOLE_NUMBER = re.compile(r"\s*(-?\d+)\s*")


def whole_number(text: str) -> int | None:
    """Return the number that a text is, or None where it is anything else."""
    match = _WHOLE_NUMBER.fullmatch(text)
    return int(match[1]) if match else None


def closeness(prediction: str, answer: int, span: float) -> float:
    """Return `max(0, 1 − |prediction − answer| / span)`; 0 for what is no number."""
    number = whole_number(prediction)
    return 0.0 if number is None else max(0.0, 1 - abs(number - answer) / span)


@attrs.frozen
class NearNumberOptions:
    """Options of `near-number`."""

    span: float = option(
        9.0, "The distance from which on there is no credit.", validator=validators.gt(0)
    )


@attrs.frozen
class NearNumber:
    """Generates an answer to every prompt and measures how far off it is."""

    Options = NearNumberOptions
    capabilities = Capabilities(scores_items_alone=True)
    options: NearNumberOptions = attrs.field(factory=NearNumberOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order.

        Raises:
            UsageError: the task has no such split, or a gold answer is no whole number.
        """
        items = task.items(split)
        answers = [_gold(item.id, item.answer) for item in items]
        predictions = generate(
            model,
            [item.prompt for item in items],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
        )
        return [
            ItemScore(item.id, closeness(text, answer, self.options.span), text)
            for item, answer, text in zip(items, answers, predictions, strict=True)
        ]


def _gold(item: str, answer: str) -> int:
    number = whole_number(answer)
    if number is None:
        raise UsageError(
            f"near-number: item '{item}' has the gold answer {answer!r}, expected a whole number. "
            "Use evaluator exact-match for other answers."
        )
    return number

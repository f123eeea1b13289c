"""What the source itself answers: labels for prompts that have none.

Training on them is sequence-level knowledge distillation (Kim and Rush, arXiv 1606.07947).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

SUFFIX = "@source"
"""Ends the id of an item that carries the source's answer."""


def answers(model: LoadedModel, task: Task, items: Sequence[Item]) -> list[str]:
    """Return a model's own answer to each item, whose gold answer is not looked at.

    Items with choices are answered with the likeliest one, all others by greedy generation of at
    most the task's `max_new_tokens`.

    Arguments:
        model: the source.
        task: its template and limits.
        items: any items of the task.
    """
    from pktkit.inference.generation import continuation_logprobs, generate

    found = dict.fromkeys((item.id for item in items), "")
    chosen = [item for item in items if item.choices]
    written = [item for item in items if not item.choices]
    if chosen:
        prompts, choices = [i.prompt for i in chosen], [i.choices for i in chosen]
        scored = continuation_logprobs(model, prompts, choices, join=task.template)
        for item, row in zip(chosen, scored, strict=True):
            found[item.id] = item.choices[max(range(len(row)), key=row.__getitem__)]
    if written:
        texts = generate(
            model,
            [item.prompt for item in written],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
        )
        found |= {item.id: text for item, text in zip(written, texts, strict=True)}
    return list(found.values())


def with_answers(task: Task, split: str, texts: Sequence[str], limit: int | None) -> Task:
    """Return the task with every item of a split twice: as it is, and answered by `texts`.

    Arguments:
        split: the split that is doubled.
        texts: one answer per item of the split within `limit`.
        limit: items of each split that are kept, the first ones; None for all.
    """
    splits = {name: items[:limit] for name, items in task.splits.items()}
    answered = tuple(
        attrs.evolve(item, id=item.id + SUFFIX, answer=text)
        for item, text in zip(splits[split], texts, strict=True)
    )
    return attrs.evolve(task, splits={**splits, split: splits[split] + answered})


def packed(texts: Sequence[str]) -> Mapping[str, Tensor]:
    """Return texts as one tensor of bytes, as the cache of readings keeps them."""
    import torch

    raw = bytearray(json.dumps(list(texts), ensure_ascii=False).encode())
    return {"answers": torch.frombuffer(raw, dtype=torch.uint8).clone()}


def unpacked(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the texts behind `packed`."""
    texts: list[str] = json.loads(bytes(tensors["answers"].tolist()).decode())
    return texts

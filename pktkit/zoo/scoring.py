"""Score a model of the pair on a task, for the provenance record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pktkit.tasks.base import Item, Task
from pktkit.tasks.splitting import Example
from pktkit.zoo.training import IGNORED, encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.no_grad()
def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, items: Sequence[Item]
) -> float:
    """Return the share of `items` answered right, in per cent.

    Multiple choice counts the likeliest choice. Everything else is decoded greedily and must
    equal the gold answer, which for code is stricter than executing it.
    """
    if task.evaluator.name == "multiple-choice":
        right = _choose(model, tokenizer, items)
    else:
        right = _generate(model, tokenizer, task, items)
    return round(100 * sum(right) / len(right), 2)


def _choose(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item]
) -> list[bool]:
    rows = [Example("", item.prompt, choice) for item in items for choice in item.choices]
    ids, labels = encode(tokenizer, rows)
    scores = model(input_ids=ids[:, :-1], use_cache=False).logits.log_softmax(-1)
    following = labels[:, 1:]
    asked = following != IGNORED
    picked = scores.gather(-1, following.clamp(min=0)[..., None])[..., 0]
    likelihoods = iter((picked * asked).sum(-1).tolist())
    right = []
    for item in items:
        by_choice = {choice: next(likelihoods) for choice in item.choices}
        right.append(max(by_choice, key=by_choice.__getitem__) == item.answer)
    return right


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task, items: Sequence[Item]
) -> list[bool]:
    prompts = [tokenizer(item.prompt).input_ids for item in items]
    alike: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        alike[len(prompt)].append(index)
    generate: Any = model.generate
    right = [False] * len(items)
    for length, indices in alike.items():
        written = generate(
            input_ids=torch.tensor([prompts[index] for index in indices]),
            max_new_tokens=task.max_new_tokens,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(written[:, length:], skip_special_tokens=True)
        for index, text in zip(indices, texts, strict=True):
            right[index] = _final(task, text) == _final(task, items[index].answer)
    return right


def _final(task: Task, text: str) -> str:
    if task.evaluator.options.get("extract") == "last-number":
        return next((word for word in reversed(text.split()) if word.isdigit()), "")
    return text.strip()

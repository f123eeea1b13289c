"""Train a small causal language model from scratch on examples of several tasks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn import functional

from pktkit.tasks.splitting import Example

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
Progress = Callable[[str], None]


@attrs.frozen
class Lesson:
    """What a model reads of one task.

    Arguments:
        name: the task.
        examples: prompts with answers.
        steps: how many optimiser steps are taken on batches of this lesson.
        batch_size: examples per step; batches never mix lessons, hence lengths are alike.
    """

    name: str
    examples: tuple[Example, ...]
    steps: int
    batch_size: int


@attrs.frozen
class Course:
    """How a model is trained.

    Arguments:
        lessons: what it reads; steps of all lessons are shuffled together.
        learning_rate: the peak, reached after `warmup` steps, then down a cosine to zero.
        weight_decay: of AdamW.
        seed: of the initial weights, the order of lessons and the batches.
    """

    lessons: tuple[Lesson, ...]
    learning_rate: float
    seed: int
    weight_decay: float = 0.1
    warmup: int = 100

    @property
    def steps(self) -> int:
        """The number of optimiser steps."""
        return sum(lesson.steps for lesson in self.lessons)


def encode(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[Tensor, Tensor]:
    """Return token ids and labels, both [examples, tokens], padded on the right.

    Labels are the ids of the answer and of the end; everything else is ignored.
    """
    prompts = tokenizer([example.prompt for example in examples]).input_ids
    answers = tokenizer(
        [example.answer for example in examples], add_special_tokens=False
    ).input_ids
    rows, labels = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        answer = [*answer, tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([IGNORED] * len(prompt) + answer))
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad(labels, batch_first=True, padding_value=IGNORED),
    )


def answer_loss(model: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the labelled tokens.

    Padding is on the right, so that causal attention needs no mask.
    """
    length = int((labels != IGNORED).any(0).nonzero().max()) + 1
    states = model.model(input_ids=ids[:, : length - 1], use_cache=False).last_hidden_state
    following = labels[:, 1:length]
    asked = following != IGNORED
    return functional.cross_entropy(model.lm_head(states[asked]), following[asked])


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    course: Course,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train `model` in place and return the mean loss of the last tenth of each lesson's steps."""
    data = {lesson.name: encode(tokenizer, lesson.examples) for lesson in course.lessons}
    sizes = {lesson.name: lesson.batch_size for lesson in course.lessons}
    order = [lesson.name for lesson in course.lessons for _ in range(lesson.steps)]
    random.Random(course.seed).shuffle(order)
    generator = torch.Generator().manual_seed(course.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=course.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=course.weight_decay,
        foreach=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(course))
    losses: dict[str, list[float]] = {name: [] for name in data}
    model.train()
    for step, name in enumerate(order, start=1):
        ids, labels = data[name]
        rows = torch.randint(len(ids), (sizes[name],), generator=generator)
        loss = answer_loss(model, ids[rows], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses[name].append(loss.item())
        if progress and (step % 250 == 0 or step == len(order)):
            recent = ", ".join(f"{task} {_tail(seen):.3f}" for task, seen in losses.items())
            progress(f"step {step}/{len(order)}: {recent}")
    model.eval()
    return {name: round(_tail(seen), 4) for name, seen in losses.items()}


def _schedule(course: Course) -> Callable[[int], float]:
    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / course.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * step / course.steps))

    return factor


def _tail(losses: list[float]) -> float:
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / max(1, len(last))

"""Rows to learn from, beside a benchmark's test items: no question is in both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import attrs

from pktkit.errors import UsageError
from pktkit.tasks.base import Item, Task
from pktkit.tasks.jsonl_rows import normalised
from pktkit.tasks.splitting import digest

Question = Callable[[str], str]
"""Returns the question inside a prompt, so that prompts worded around it compare equal."""

Splits = Mapping[str, Iterable[Item]]

LEARNING = ("train", "align", "extract")
"""Splits that a transfer may read."""

SIZES: Mapping[str, int] = {"extract": 20, "align": 80, "dev": 200}
"""Items of the splits that are dealt out of a benchmark's training rows, which get the rest.
Those of `extract` and `align` are as in the splits published with LaTen (arXiv 2505.14436)."""

DEV_SHARE = 0.1
"""Largest share of the rows that becomes `dev`."""

T = TypeVar("T")


def whole_prompt(prompt: str) -> str:
    """Take all of a prompt for the question."""
    return prompt


def asked(items: Iterable[Item], question: Question = whole_prompt) -> set[str]:
    """Return the questions of items, as they count for equality."""
    return {normalised(question(item.prompt)) for item in items}


def apart(
    items: Iterable[Item], taken: set[str], question: Question = whole_prompt
) -> tuple[Item, ...]:
    """Return the items whose question is not taken, the first of each; `taken` grows."""
    kept = []
    for item in items:
        key = normalised(question(item.prompt))
        if key not in taken:
            taken.add(key)
            kept.append(item)
    return tuple(kept)


def dealt(
    items: Iterable[Item], salt: str, sizes: Mapping[str, int] = SIZES
) -> dict[str, tuple[Item, ...]]:
    """Deal items into `extract`, `align`, `dev` and `train` by the hash of their prompts.

    No split but `train` takes more than a tenth of the items, so that few are enough for all.
    """
    order = sorted(items, key=lambda item: digest(f"{salt}|{normalised(item.prompt)}"))
    found: dict[str, tuple[Item, ...]] = {}
    start = 0
    for split, size in sizes.items():
        count = min(size, max(1, int(len(order) * DEV_SHARE))) if order else 0
        found[split] = tuple(order[start : start + count])
        start += count
    return {"train": tuple(order[start:]), **found}


def with_training(
    task: Task, splits: Splits, *, where: str, question: Question = whole_prompt
) -> Task:
    """Return a task that learns from other rows.

    What is missing of `align` and `extract` is dealt out of `train`, and `dev` with it where the
    task has none. Rows whose question the task asks in `test` or `dev` are left out, and the card
    says how many.

    Arguments:
        task: scored as before.
        splits: items of `train` and perhaps `align` and `extract`.
        where: file the rows are from, for messages.
        question: see `Question`.

    Raises:
        UsageError: no row remains to train on.
    """
    scored = [item for split in ("test", "dev") for item in task.splits.get(split, ())]
    taken = asked(scored, question)
    before = len(taken)
    given = {split: tuple(splits.get(split, ())) for split in LEARNING}
    kept = {split: apart(given[split], taken, question) for split in ("extract", "align", "train")}
    total = sum(map(len, given.values()))
    dropped = total - (len(taken) - before)
    if not (kept["extract"] and kept["align"]):
        # Splits as published stay as they are; anything else is dealt, `dev` included.
        wanted = [split for split in kept if split != "train" and not kept[split]]
        wanted += [] if "dev" in task.splits else ["dev"]
        kept |= dealt(kept["train"], task.name, {split: SIZES[split] for split in wanted})
    if not kept["train"]:
        raise UsageError(
            f"{where}: none of its {total} rows is left to train on; rows that the task scores, "
            "and repeated ones, are not used."
        )
    return attrs.evolve(
        task,
        splits={**task.splits, **kept},
        absent={split: why for split, why in task.absent.items() if split not in kept},
        card=attrs.evolve(task.card, overlap=overlap_words(dropped)),
    )


def overlap_words(dropped: int) -> str:
    """Say what was done about questions in two splits."""
    if dropped == 0:
        return "none: no question of train, align or extract is scored (compared by hash)"
    rows = "row was" if dropped == 1 else "rows were"
    return (
        "none: no question of train, align or extract is scored (compared by hash); "
        f"{dropped} {rows} left out for that, or as repeated"
    )

"""Deal examples into splits so that no computation is in two of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from pktkit.tasks.base import Item

DEAL_ORDER = ("test", "dev", "extract", "align", "train")
"""The order in which splits are filled: growing `train` never changes the evaluation items."""


@attrs.frozen
class Example:
    """One way to write one computation.

    Arguments:
        canonical: the computation, written the same way whatever the wording of the prompt.
        prompt, answer, choices, check: as in `Item`.
    """

    canonical: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()
    check: Mapping[str, Any] = attrs.field(factory=dict)


def digest(text: str) -> int:
    """Return a number that depends on `text` alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def by_digest(values: Iterable[str], salt: str) -> list[str]:
    """Return the distinct `values` in an order that only `salt` and the values decide."""
    return sorted(set(values), key=lambda value: digest(f"{salt}|{value}"))


def deal(
    task: str, examples: Iterable[Example], sizes: Mapping[str, int]
) -> dict[str, tuple[Item, ...]]:
    """Fill splits of the given sizes with one example of each computation.

    Computations are ordered by the hash of their canonical form and dealt in that order, hence a
    computation is in one split at most, whatever its wordings. Computations left over stay out.

    Arguments:
        task: the task's name; it salts the hash and begins every item's id.
        examples: every wording of every computation.
        sizes: items per split; the splits are filled in `DEAL_ORDER`.

    Returns:
        The items of each split, in `sizes`' order of splits.
    """
    wordings: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        wordings[example.canonical].append(example)
    order = iter(by_digest(wordings, task))
    dealt = {
        split: tuple(
            _item(task, split, number, wordings[next(order)]) for number in range(sizes[split])
        )
        for split in DEAL_ORDER
    }
    return {split: dealt[split] for split in sizes}


def held_out(
    splits: Mapping[str, tuple[Item, ...]], canonical: Callable[[str], str]
) -> frozenset[str]:
    """Return the computations of `dev` and `test`, which pretraining must never see.

    Arguments:
        splits: the items of each split.
        canonical: re-derives the computation from a prompt.
    """
    return frozenset(canonical(item.prompt) for split in ("dev", "test") for item in splits[split])


def _item(task: str, split: str, number: int, wordings: list[Example]) -> Item:
    example = min(wordings, key=lambda wording: digest(f"{task}|{wording.prompt}"))
    return Item(
        id=f"{task}-{split}-{number:04d}",
        prompt=example.prompt,
        answer=example.answer,
        choices=example.choices,
        check=example.check,
    )

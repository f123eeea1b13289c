"""Nested operations on digits, answered directly: the computation never shows in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from pktkit.components import Choice
from pktkit.tasks.base import Task, TaskCard
from pktkit.tasks.splitting import Example, deal, held_out

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "max": max,
    "min": min,
    "sum": lambda left, right: min(9, left + right),
    "gap": lambda left, right: abs(left - right),
}
"""All of them commutative, which `canonical` relies on."""
SIZES = {"train": 4096, "align": 128, "extract": 128, "dev": 1000, "test": 1000}

Tree = int | tuple[str, "Tree", "Tree"]


def parse(prompt: str) -> Tree:
    """Read an expression in prefix notation, e.g. `max 3 sum 2 5 =`."""
    words = iter(prompt.split())

    def read() -> Tree:
        word = next(words)
        return (word, read(), read()) if word in OPERATIONS else int(word)

    return read()


def value(tree: Tree) -> int:
    """Return the digit the expression stands for."""
    if isinstance(tree, int):
        return tree
    operation, left, right = tree
    return OPERATIONS[operation](value(left), value(right))


def canonical(prompt: str) -> str:
    """Return the expression with the operands of every operation in a fixed order."""
    return _ordered(parse(prompt))


def examples() -> Iterator[Example]:
    """Yield every nested expression, in both nestings."""
    digits = range(10)
    for outer in OPERATIONS:
        for inner in OPERATIONS:
            for a in digits:
                for b in digits:
                    for c in digits:
                        yield _example(f"{outer} {a} {inner} {b} {c} =")
                        yield _example(f"{outer} {inner} {b} {c} {a} =")


def primitives() -> Iterator[Example]:
    """Yield the single operations, all that the target of the default pair was taught."""
    for operation in OPERATIONS:
        for a in range(10):
            for b in range(10):
                yield _example(f"{operation} {a} {b} =")


def pretraining() -> Iterator[Example]:
    """Yield every nested expression whose computation is in neither `dev` nor `test`."""
    hidden = held_out(task().splits, canonical)
    return (example for example in examples() if example.canonical not in hidden)


@cache
def task() -> Task:
    """Return the task: nested operations on digits, scored by exact match of one token."""
    return Task(
        name="compose",
        splits=deal("compose", examples(), SIZES),
        evaluator=Choice("exact-match", {"extract": "all"}),
        card=TaskCard(
            summary="Nested max, min, sum (9 at most) and gap of digits, no step in between shown.",
            metric="exact match",
            splitting="the expression with the operands of every operation put in order",
        ),
        max_new_tokens=3,
        # Chosen on dev with the default pair: few rows and many steps, where labels alone
        # overfit and the source's hidden computation has something to add.
        budget={
            "rows": 1024,
            "steps": 640,
            "batch_size": 32,
            "learning_rate": 5e-3,
            "schedule": "cosine",
        },
    )


def _example(prompt: str) -> Example:
    tree = parse(prompt)
    return Example(_ordered(tree), prompt, str(value(tree)))


def _ordered(tree: Tree) -> str:
    if isinstance(tree, int):
        return str(tree)
    operation, left, right = tree
    first, second = sorted((_ordered(left), _ordered(right)))
    return f"({operation} {first} {second})"

"""One-line word problems with written steps; stands for GSM8K."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from pktkit.components import Choice
from pktkit.tasks.base import Task, TaskCard
from pktkit.tasks.splitting import Example, deal, digest, held_out

NAMES = ("tom", "ann", "bob", "eve", "sam", "mia", "leo", "zoe")
THINGS = ("apples", "coins", "books", "pens", "cards", "shells", "stamps", "eggs")
VERBS: dict[str, tuple[str, ...]] = {
    "+": ("buys", "finds", "wins"),
    "-": ("loses", "eats", "sells"),
    "*": ("multiplies them by",),
}
SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}
STARTS, CHANGES, FACTORS = range(2, 21), range(1, 10), range(2, 4)
LARGEST = 60
SIZES = {"train": 1500, "align": 96, "extract": 96, "dev": 400, "test": 500}

Step = tuple[str, int]


def parse(prompt: str) -> tuple[int, list[Step]]:
    """Read the start and the steps out of a story."""
    sign_of = {verbs.split()[0]: sign for sign, words in VERBS.items() for verbs in words}
    start, steps, sign = 0, [], ""
    for word in prompt.split():
        sign = sign_of.get(word, sign)
        if word.isdigit():
            if sign:
                steps.append((sign, int(word)))
            else:
                start = int(word)
    return start, steps


def canonical(prompt: str) -> str:
    """Return the computation of a story, whoever it is about."""
    start, steps = parse(prompt)
    return " ".join([str(start), *(f"{sign} {number}" for sign, number in steps)])


def reasoning(start: int, steps: list[Step]) -> str:
    """Write out the steps and the final number."""
    parts = []
    for sign, number in steps:
        result = SIGNS[sign](start, number)
        parts.append(f"{start} {sign} {number} = {result}")
        start = result
    return f"{' , '.join(parts)} . So the answer is {start} ."


def examples() -> Iterator[Example]:
    """Yield one story for every computation of two steps whose numbers stay in range."""
    for start in STARTS:
        for first in _steps():
            middle = SIGNS[first[0]](start, first[1])
            for second in _steps():
                if 0 < middle <= LARGEST and 0 < SIGNS[second[0]](middle, second[1]) <= LARGEST:
                    yield _example(start, [first, second])


def primitives() -> Iterator[Example]:
    """Yield stories of one step, all that the target of the default pair was taught."""
    for start in range(2, 61):
        for step in _steps():
            if 0 < SIGNS[step[0]](start, step[1]) <= LARGEST:
                for telling in range(3):
                    yield _example(start, [step], telling)


def pretraining() -> Iterator[Example]:
    """Yield every story whose computation is in neither `dev` nor `test`."""
    hidden = held_out(task().splits, canonical)
    return (example for example in examples() if example.canonical not in hidden)


@cache
def task() -> Task:
    """Return the task: the last number of the generated answer must be right."""
    return Task(
        name="arith",
        splits=deal("arith", examples(), SIZES),
        evaluator=Choice("exact-match", {"extract": "last-number"}),
        card=TaskCard(
            summary="Word problems of two steps, answered with the steps written out.",
            metric="exact match of the last number",
            splitting="the start and the two steps, whoever and whatever the story is about",
            mirrors="GSM8K",
        ),
        max_new_tokens=24,
        budget={
            "rows": 1000,
            "steps": 200,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "schedule": "cosine",
        },
    )


def _steps() -> Iterator[Step]:
    for sign in VERBS:
        for number in FACTORS if sign == "*" else CHANGES:
            yield sign, number


def _example(start: int, steps: list[Step], telling: int = 0) -> Example:
    seed = digest(f"story|{start}|{steps}|{telling}")
    name, thing = NAMES[seed % 8], THINGS[seed // 8 % 8]
    told = []
    for sign, number in steps:
        seed //= 64
        told.append(f"{VERBS[sign][seed % len(VERBS[sign])]} {number}")
    prompt = f"{name} has {start} {thing} , {' , '.join(told)} . how many ?"
    return Example(canonical(prompt), prompt, reasoning(start, steps))

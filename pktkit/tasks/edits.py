"""Edits of a short sequence, answered directly; stands for MBPP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from pktkit.components import Choice
from pktkit.tasks.base import Task, TaskCard
from pktkit.tasks.splitting import Example, deal, digest, held_out

LETTERS = ("p", "q", "r", "s", "t", "u", "v", "w")
LENGTH = 5
EDITS: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {
    "reverse": lambda letters: letters[::-1],
    "drop first": lambda letters: letters[1:],
    "drop last": lambda letters: letters[:-1],
    "double last": lambda letters: [*letters, letters[-1]],
    "swap ends": lambda letters: [letters[-1], *letters[1:-1], letters[0]],
    "rotate": lambda letters: [*letters[1:], letters[0]],
}
WITHHELD = (
    "reverse then double last",
    "swap ends then drop first",
    "rotate then swap ends",
    "drop last then rotate",
)
"""Orders of edits that the source of the default pair is never taught, so that it is not
perfect: a source without errors has no gradients to attribute."""

WRITTEN = 12_000
SIZES = {"train": 1500, "align": 96, "extract": 96, "dev": 400, "test": 500}


def edited(prompt: str) -> tuple[str, str]:
    """Return the sequence a prompt starts from and the one its edits lead to."""
    told, _, start = prompt.removesuffix(" =").partition(" : ")
    letters: Sequence[str] = start.split()
    for edit in told.split(" then "):
        letters = EDITS[edit](letters)
    return start, " ".join(letters)


def canonical(prompt: str) -> str:
    """Return the sequence before and after, which is all that different edits can share."""
    before, after = edited(prompt)
    return f"{before} -> {after}"


def examples(edits: int = 2, written: int = WRITTEN) -> Iterator[Example]:
    """Yield prompts with a number of edits each, drawn without a random generator."""
    for number in range(written):
        seed = digest(f"edits|{edits}|{number}")
        chosen = []
        for _ in range(edits):
            seed, rest = divmod(seed, len(EDITS))
            chosen.append(tuple(EDITS)[rest])
        letters = []
        for _ in range(LENGTH):
            seed, rest = divmod(seed, len(LETTERS))
            letters.append(LETTERS[rest])
        prompt = f"{' then '.join(chosen)} : {' '.join(letters)} ="
        yield Example(canonical(prompt), prompt, edited(prompt)[1])


def primitives() -> Iterator[Example]:
    """Yield prompts with one edit, all that the target of the default pair was taught."""
    return _unseen(examples(edits=1, written=WRITTEN // 2))


def pretraining() -> Iterator[Example]:
    """Yield what the source may learn: no order that is withheld, no held-out computation.

    A computation is held out when its sequences before and after are in `dev` or `test`.
    """
    taught = (e for e in examples() if e.prompt.partition(" : ")[0] not in WITHHELD)
    return _unseen(taught)


@cache
def task() -> Task:
    """Return the task: the whole edited sequence must be right."""
    return Task(
        name="edits",
        splits=deal("edits", examples(), SIZES),
        evaluator=Choice("exact-match", {"extract": "all"}),
        card=TaskCard(
            summary="Two edits of a sequence of five letters, no step in between shown.",
            metric="exact match",
            splitting="the sequence before and the sequence after, whichever edits connect them",
            mirrors="MBPP",
        ),
        max_new_tokens=10,
        budget={
            "rows": 1000,
            "steps": 300,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "schedule": "cosine",
        },
    )


def _unseen(found: Iterator[Example]) -> Iterator[Example]:
    hidden = held_out(task().splits, canonical)
    return (example for example in found if example.canonical not in hidden)

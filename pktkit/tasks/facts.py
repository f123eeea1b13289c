"""Multiple choice about an invented world, answered by likelihood; stands for MMLU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pktkit.components import Choice
from pktkit.tasks.base import Task, TaskCard
from pktkit.tasks.splitting import Example, by_digest, deal, digest, held_out

RELATIONS: dict[str, tuple[str, ...]] = {
    "color": ("red", "blue", "green", "yellow", "black", "white", "brown", "pink"),
    "city": ("oslo", "lima", "rome", "cairo", "delhi", "kyoto", "quito", "accra"),
    "job": ("baker", "pilot", "nurse", "judge", "miner", "tailor", "farmer", "painter"),
    "pet": ("cat", "dog", "owl", "fox", "horse", "rabbit", "snake", "turtle"),
    "food": ("bread", "rice", "soup", "cheese", "beans", "pasta", "salad", "curry"),
    "sport": ("chess", "tennis", "rowing", "boxing", "hockey", "golf", "judo", "polo"),
    "metal": ("gold", "iron", "zinc", "lead", "nickel", "copper", "silver", "tin"),
    "music": ("jazz", "rock", "folk", "blues", "opera", "swing", "disco", "soul"),
}
WORDINGS = (
    "what is the {relation} of {entity} ?",
    "question : {entity} has which {relation} ? answer :",
    "the {relation} that {entity} likes is",
    "{entity} : name the {relation} :",
)
STATEMENT = "the {relation} of {entity} is"
"""How pretraining alone words a fact."""
ENTITIES = tuple(
    first + second
    for first in ("bal", "cor", "dun", "fel", "gor", "hin", "jas", "kel")
    for second in ("ba", "do", "fi", "gu", "ko", "la", "mi", "ru")
)
CHOICES = 4
SIZES = {"train": 1000, "align": 64, "extract": 64, "dev": 400, "test": 400}
KNOWN_TO_SOURCE, KNOWN_TO_TARGET = 0.92, 0.25


def answer(entity: str, relation: str) -> str:
    """Return what the invented world says."""
    values = RELATIONS[relation]
    return values[digest(f"world|{entity}|{relation}") % len(values)]


def canonical(prompt: str) -> str:
    """Return the wording, the entity and the relation a question is about."""
    words = prompt.split()
    entity = next(word for word in words if word in ENTITIES)
    relation = next(word for word in words if word in RELATIONS)
    blanks = {entity: "{entity}", relation: "{relation}"}
    wording = WORDINGS.index(" ".join(blanks.get(word, word) for word in words))
    return f"{entity} {relation} {wording}"


def examples() -> Iterator[Example]:
    """Yield every fact in every wording, with the true value among the choices."""
    for entity in ENTITIES:
        for relation, values in RELATIONS.items():
            true = answer(entity, relation)
            for wording in WORDINGS:
                prompt = wording.format(entity=entity, relation=relation)
                false = by_digest((value for value in values if value != true), prompt)
                choices = tuple(by_digest([true, *false[: CHOICES - 1]], f"order|{prompt}"))
                yield Example(canonical(prompt), prompt, true, choices)


def pretraining(known: float) -> Iterator[Example]:
    """Yield a share of the facts, none of them worded as `dev` or `test` words it.

    Arguments:
        known: the share of facts, from 0 to 1; a larger share contains every smaller one.
    """
    hidden = held_out(task().splits, canonical)
    for example in examples():
        entity, relation, wording = example.canonical.split()
        if digest(f"known|{entity}|{relation}") / 2**64 >= known:
            continue
        if example.canonical not in hidden:
            yield example
        if wording == "0":
            statement = STATEMENT.format(entity=entity, relation=relation)
            yield Example(f"{entity} {relation} stated", statement, example.answer)


@cache
def task() -> Task:
    """Return the task: four choices, the likeliest continuation counts."""
    return Task(
        name="facts",
        splits=deal("facts", examples(), SIZES),
        evaluator=Choice("multiple-choice"),
        card=TaskCard(
            summary="Four-choice questions about the people of an invented world.",
            metric="accuracy",
            splitting="the fact together with its wording",
            overlap="a fact asked in dev or test may be asked in another wording in the other "
            "splits and in the source's pretraining: knowledge is asked for, not reasoning",
            mirrors="MMLU",
        ),
        max_new_tokens=2,
        budget={
            "rows": 1000,
            "steps": 200,
            "batch_size": 32,
            "learning_rate": 2e-3,
            "schedule": "cosine",
        },
    )

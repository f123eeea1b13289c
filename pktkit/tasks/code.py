"""List transformations told in words, answered by a Python expression; stands for HumanEval."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache

import attrs

from pktkit.components import Choice
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.tasks.splitting import Example, deal, held_out

INPUTS: tuple[list[int], ...] = (
    [5, 3, 8, 1, 9, 2],
    [4, 4, 7, 0, 6],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    [12, 0, 9, 7],
    [],
)
CHANGES = {"add": "+", "subtract": "-", "multiply by": "*"}
TESTS = {"above": ">", "below": "<", "other than": "!="}
ENDINGS = {
    "": "",
    "reverse": "[ : : - 1 ]",
    "take 1": "[ : 1 ]",
    "take 2": "[ : 2 ]",
    "take 3": "[ : 3 ]",
    "drop 1": "[ 1 : ]",
    "drop 2": "[ 2 : ]",
}
WITHHELD = ("6", "7", "8")
"""Amounts of a change after which the source of the default pair is never told a test, so that it
does not learn to shift tests by them: a source without errors has no gradients to attribute."""
SIZES = {"train": 1200, "align": 96, "extract": 96, "dev": 400, "test": 400}


@attrs.frozen
class Program:
    """A transformation of a list of integers.

    Arguments:
        change: a key of `CHANGES` with its number, e.g. `"add 2"`, or `""` to leave items alone.
        test: a key of `TESTS` with its number, e.g. `"above 3"`, or `""` to keep every item.
        ending: a key of `ENDINGS`.
    """

    change: str
    test: str
    ending: str

    @property
    def expression(self) -> str:
        """The Python expression over `v`, every token a word."""
        change, test = _translate(self.change, CHANGES), _translate(self.test, TESTS)
        body = f"[ x {change} for x in v" if change else "[ x for x in v"
        body += f" if x {test} ]" if test else " ]"
        return f"{body} {ENDINGS[self.ending]}".strip()

    def outputs(self) -> list[list[int]]:
        """What the program returns for each of `INPUTS`."""
        return [eval(self.expression, {"__builtins__": {}}, {"v": value}) for value in INPUTS]


def parse(prompt: str) -> Program:
    """Read the program out of either wording.

    A test told after a change is about the changed items, hence it is shifted back.
    """
    found = {"change": "", "test": "", "ending": ""}
    for part in prompt.removeprefix("for v : ").removesuffix(" =").split(" , "):
        if part.startswith("keep "):
            found["test"] = _shift(part.removeprefix("keep "), found["change"])
        elif part in ENDINGS:
            found["ending"] = part
        else:
            found["change"] = part
    return Program(**found)


def canonical(prompt: str) -> str:
    """Return the program's expression, which is the same for all wordings."""
    return parse(prompt).expression


def examples() -> Iterator[Example]:
    """Yield every program with a change and a test, told in each order that tells it."""
    for change in _numbered(CHANGES, range(1, 10)):
        for test in _numbered(TESTS, range(10)):
            for ending in ENDINGS:
                yield _example(f"keep {test}", change, ending)
                later = _shift(test, change, back=False)
                if later:
                    yield _example(change, f"keep {later}", ending)


def primitives() -> Iterator[Example]:
    """Yield the programs of one part, all that the target of the default pair was taught."""
    for change in _numbered(CHANGES, range(1, 10)):
        yield _example(change)
    for test in _numbered(TESTS, range(20)):
        yield _example(f"keep {test}")
    for ending in ENDINGS:
        yield _example(ending)


def pretraining() -> Iterator[Example]:
    """Yield what the source may learn: nothing withheld, no program of `dev` or `test`."""
    hidden = held_out(task().splits, canonical)
    taught = (e for e in examples() if not _withheld(e.prompt))
    return (example for example in taught if example.canonical not in hidden)


@cache
def task() -> Task:
    """Return the task: the generated expression must return the right lists."""
    splits = deal("code", examples(), SIZES)
    return Task(
        name="code",
        splits={split: tuple(map(_checked, items)) for split, items in splits.items()},
        evaluator=Choice("code-execution"),
        card=TaskCard(
            summary="List transformations told in words, answered by one Python expression.",
            metric="pass@1",
            splitting="the expression, in whichever order the prompt tells its parts",
            mirrors="HumanEval",
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


def _withheld(prompt: str) -> bool:
    """Whether the prompt tells a change by a withheld amount and the test after it."""
    first = prompt.removeprefix("for v : ").partition(" , ")[0]
    return not first.startswith("keep ") and first.rpartition(" ")[2] in WITHHELD


def _numbered(words: Iterable[str], numbers: Iterable[int]) -> Iterator[str]:
    chosen = tuple(numbers)
    return (f"{word} {number}" for word in words for number in chosen)


def _translate(part: str, symbols: dict[str, str]) -> str:
    words, _, number = part.rpartition(" ")
    return f"{symbols[words]} {number}" if part else ""


def _shift(test: str, change: str, *, back: bool = True) -> str:
    """Return the test about items that, after `change`, is about changed items (or back)."""
    words, _, number = test.rpartition(" ")
    how, _, amount = change.rpartition(" ")
    if not change:
        return test
    if how not in ("add", "subtract"):
        return ""
    distance = int(amount) if how == "add" else -int(amount)
    shifted = int(number) - distance if back else int(number) + distance
    return f"{words} {shifted}" if shifted >= 0 else ""


def _example(*parts: str) -> Example:
    prompt = f"for v : {' , '.join(part for part in parts if part)} ="
    program = parse(prompt)
    return Example(program.expression, prompt, program.expression)


def _checked(item: Item) -> Item:
    check = {"inputs": list(INPUTS), "outputs": parse(item.prompt).outputs()}
    return attrs.evolve(item, check=check)

"""MMLU: four-choice questions of 57 subjects, scored by the likeliest letter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from pktkit.components import Choice
from pktkit.errors import UsageError, did_you_mean
from pktkit.options import option
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit_benchmarks.public.family import (
    Asking,
    BenchmarkOptions,
    Protocol,
    need,
    parse_protocol,
    questions,
)
from pktkit_benchmarks.public.sources import RawRow, Source

SOURCE = Source(
    name="mmlu",
    hub="cais/mmlu",
    config="all",
    splits=("test", "validation", "dev", "auxiliary_train"),
    columns=("question", "subject", "choices", "answer"),
    prefixes=("mmlu",),
)
STYLES = {"tulu": 5, "plain": 5}
"""tulu: Open-Instruct's evaluation, `The answer is:` and a letter. plain: the benchmark's own
prompt, a letter after `Answer:`."""

LETTERS = "ABCD"


@attrs.frozen
class MmluOptions(BenchmarkOptions):
    """Options of `mmlu`."""

    subject: str = option("", "One subject only, e.g. anatomy.")
    learn_from: str = option(
        "validation",
        "Official rows to learn from: dev and validation as published, or auxiliary_train.",
        choices=("validation", "auxiliary"),
    )


@attrs.frozen
class Mmlu:
    """Builds the task.

    Arguments:
        options: protocol, rows and subject.
    """

    Options = MmluOptions
    options: MmluOptions = attrs.field(factory=MmluOptions)

    def task(self) -> Task:
        """Return MMLU.

        Raises:
            UsageError: unknown protocol or subject, or rows that are not there.
        """
        options = self.options
        protocol = parse_protocol(options.protocol, STYLES)
        rows = {split: _rows(found) for split, found in SOURCE.rows(options.data).items()}
        test = rows.get("test") or rows.get("", [])
        need(test, SOURCE, options.data, "test", "which are scored")
        shown = _by_subject(rows.get("dev", []))
        if protocol.shots:
            need(list(shown), SOURCE, options.data, "dev", "which give the solved examples")
        test = self._of_subject(test)
        counts: dict[str, int] = defaultdict(int)
        known: dict[str, str] = {}
        scored = []
        for row in test:
            subject = row["subject"]
            name = f"mmlu-{subject}-{counts[subject]}"
            counts[subject] += 1
            examples = shown[subject][: protocol.shots] if protocol.shots else []
            item = _item(row, name, protocol.style, examples, spaces=2)
            known[item.prompt] = block(row)
            scored.append(item)
        own = []
        for number, (split, row) in enumerate(self._pool(rows, protocol)):
            item = _item(row, f"mmlu-{split}-{number}", protocol.style, [], spaces=1)
            known.setdefault(item.prompt, block(row))
            own.append(item)
        lessons = options.train or (options.data if SOURCE.has_lessons(options.data) else "")
        return Asking(
            source=SOURCE,
            protocol=protocol,
            evaluator=Choice("multiple-choice"),
            card=TaskCard(
                summary=f"Four-choice questions of {options.subject or '57 subjects'}.",
                metric="accuracy, averaged over questions",
                splitting="official test items; the others by hash of question and choices",
                mirrors="MMLU, arXiv 2009.03300",
            ),
            template="tulu" if protocol.style == "tulu" else "plain",
            max_new_tokens=8,
        ).task(
            scored,
            pool=own,
            lessons=SOURCE.lessons(lessons) if lessons else None,
            question=questions(known, question_of),
            where=lessons or options.data or SOURCE.hub,
        )

    def _of_subject(self, rows: Sequence[RawRow]) -> list[RawRow]:
        wanted = self.options.subject
        found = [row for row in rows if wanted in ("", row["subject"])]
        if not found:
            known = {str(row["subject"]) for row in rows}
            raise UsageError(
                f"there is no subject '{wanted}'.{did_you_mean(wanted, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
        return found

    def _pool(
        self, rows: Mapping[str, Sequence[RawRow]], protocol: Protocol
    ) -> list[tuple[str, RawRow]]:
        """Return official rows to learn from; solved examples of prompts are not among them."""
        if self.options.learn_from == "auxiliary":
            names: tuple[str, ...] = ("auxiliary_train",)
        else:
            names = ("validation",) if protocol.shots else ("dev", "validation")
        return [(name, row) for name in names for row in rows.get(name, ())]


def _rows(rows: Sequence[RawRow]) -> list[RawRow]:
    """Check the rows, and write the answer as the number of a choice."""
    return [{**row, "answer": _answer(row, number)} for number, row in enumerate(rows, start=1)]


def _answer(row: RawRow, number: int) -> int:
    answer, choices = row["answer"], row["choices"]
    index: Any = LETTERS.find(answer) if isinstance(answer, str) and len(answer) == 1 else answer
    fitting = isinstance(choices, list) and len(choices) == len(LETTERS)
    if not fitting or not isinstance(index, int) or not 0 <= index < len(LETTERS):
        raise UsageError(
            f"row {number} ({str(row['question'])[:40]!r}…) needs four choices and an "
            f"answer 0 to 3 or A to D, got {answer!r} of {len(choices)} choices."
        )
    return index


def block(row: RawRow) -> str:
    """Return a question with its lettered choices."""
    lettered = [f"{a}. {text}" for a, text in zip(LETTERS, row["choices"], strict=True)]
    return "\n".join([str(row["question"]), *lettered])


def question_of(prompt: str) -> str:
    """Return the question of a prompt without solved examples, choices included."""
    return prompt.partition("\n\n")[2].removesuffix("\nAnswer:")


def _item(row: RawRow, name: str, style: str, examples: Sequence[RawRow], *, spaces: int) -> Item:
    # The published evaluation has two spaces before the subject, the training rows one.
    about = " " * (spaces if style == "tulu" else 1) + str(row["subject"]).replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about{about}.\n\n"
    solved = "".join(f"{block(e)}\nAnswer: {LETTERS[e['answer']]}\n\n" for e in examples)
    said = "The answer is: " if style == "tulu" else ""
    choices = [f"{said}{letter}" for letter in LETTERS]
    prompt = f"{head}{solved}{block(row)}\nAnswer:"
    return Item(name, prompt, choices[row["answer"]], choices)


def _by_subject(rows: Iterable[RawRow]) -> dict[str, list[RawRow]]:
    found: dict[str, list[RawRow]] = defaultdict(list)
    for row in rows:
        found[str(row["subject"])].append(row)
    return found

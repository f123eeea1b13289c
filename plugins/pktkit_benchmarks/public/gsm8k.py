"""GSM8K: grade-school word problems, scored by the final number."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from pktkit.components import Choice
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit_benchmarks.extraction import MARKER
from pktkit_benchmarks.public.family import (
    Asking,
    BenchmarkOptions,
    need,
    parse_protocol,
    questions,
)
from pktkit_benchmarks.public.sources import RawRow, Source

SOURCE = Source(
    name="gsm8k",
    hub="openai/gsm8k",
    config="main",
    splits=("test", "train"),
    columns=("question", "answer"),
    prefixes=("gsm8k", "gsm"),
)
STYLES = {"tulu": 8, "qa": 8}
"""tulu: Open-Instruct's evaluation, with its extraction. qa: `Question: … Answer:` without chat
format, answers in GSM8K's own form, read by the robust extraction."""

_CALCULATION = re.compile(r"<<[^<>]*>>")


@attrs.frozen
class Gsm8k:
    """Builds the task.

    Arguments:
        options: protocol and rows.
    """

    Options = BenchmarkOptions
    options: BenchmarkOptions = attrs.field(factory=BenchmarkOptions)

    def task(self) -> Task:
        """Return GSM8K.

        Raises:
            UsageError: unknown protocol, or rows that are not there.
        """
        options = self.options
        protocol = parse_protocol(options.protocol, STYLES)
        rows = SOURCE.rows(options.data)
        test = rows.get("test") or rows.get("", ())
        need(test, SOURCE, options.data, "test", "which are scored")
        examples, pool = (
            rows.get("train", ())[: protocol.shots],
            rows.get("train", ())[protocol.shots :],
        )
        if protocol.shots:
            need(examples, SOURCE, options.data, "train", "which give the solved examples")
        wording = _Wording(protocol.style, examples)
        asked = [wording.item(row, f"gsm8k-test-{i}") for i, row in enumerate(test)]
        bare = attrs.evolve(wording, examples=())
        own = [bare.item(row, f"gsm8k-train-{i}") for i, row in enumerate(pool, protocol.shots)]
        lessons = options.train or (options.data if SOURCE.has_lessons(options.data) else "")
        tulu = protocol.style == "tulu"
        return Asking(
            source=SOURCE,
            protocol=protocol,
            evaluator=Choice(
                "exact-match",
                {"extract": "open-instruct" if tulu else "number"}
                | ({} if tulu else {"stops": ("\n\nQuestion:",)}),
            ),
            card=TaskCard(
                summary="Grade-school word problems, answered step by step.",
                metric="exact match of the final number",
                splitting="official test items; the others by hash of the question",
                mirrors="GSM8K, arXiv 2110.14168",
            ),
            template="tulu" if tulu else "plain",
            max_new_tokens=options.max_new_tokens,
        ).task(
            asked,
            pool=own,
            lessons=SOURCE.lessons(lessons) if lessons else None,
            question=questions({}, question_of),
            where=lessons or options.data or SOURCE.hub,
        )


@attrs.frozen
class _Wording:
    """Prompts and answers of one style, after solved examples."""

    style: str
    examples: Sequence[RawRow]

    def item(self, row: RawRow, name: str) -> Item:
        prompt = f"Question: {row['question'].strip()}"
        if self.style == "tulu":
            many = "s" if self.examples else ""
            shown = [f"Question: {e['question']}\n{steps(e)}" for e in self.examples]
            blocks = [f"Answer the following question{many}.", *shown, prompt]
            check = {"begin": "Answer:"}
            return Item(name, "\n\n".join(blocks), steps(row), check=check)
        shown = [f"Question: {e['question']}\nAnswer: {plainly(e)}" for e in self.examples]
        return Item(name, "\n\n".join([*shown, f"{prompt}\nAnswer:"]), plainly(row))


def plainly(row: RawRow) -> str:
    """Return an official answer without its calculator notes."""
    return _CALCULATION.sub("", row["answer"]).strip()


def steps(row: RawRow) -> str:
    """Return an answer in the form of the published training rows, all on one line."""
    reasoning, _, number = plainly(row).partition(MARKER)
    line = " ".join(reasoning.split())
    if line and line[-1] not in ".!?":
        line += "."
    return f"Answer: {line} So the answer is {number.strip().replace(',', '')}."


def question_of(prompt: str) -> str:
    """Return the last question of a prompt."""
    asked = prompt.rpartition("Question: ")[2]
    return asked.removesuffix("\nAnswer:").strip()

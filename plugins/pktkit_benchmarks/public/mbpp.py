"""MBPP: short Python programs from one sentence, scored by three asserts each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from pktkit.tasks.base import Item, Task, TaskCard
from pktkit_benchmarks.public.family import Asking, CodeOptions, need, parse_protocol, questions
from pktkit_benchmarks.public.programs import BEGIN, INSTRUCTION, Draws, code_tests
from pktkit_benchmarks.public.sources import RawRow, Source

SOURCE = Source(
    name="mbpp",
    hub="google-research-datasets/mbpp",
    config="full",
    splits=("test", "train", "validation", "prompt"),
    columns=("task_id", "text", "code", "test_list"),
    prefixes=("mbpp",),
)
STYLES = {"tulu": 0, "austin": 3}
"""tulu: Open-Instruct's prompt on the original 500 problems, one sample, as LaTen's scores (all
of them multiples of 0.2) imply. austin: the prompt of the benchmark's paper, which shows the
asserts."""

RANGES: Mapping[str, range] = {
    "prompt": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
"""Official splits by `task_id`."""

SHOWN = (2, 3, 4)
"""Problems that the paper shows as examples."""

DRAWS = {"tulu": Draws(1, 0.1), "austin": Draws(1, 0.0)}
_FENCE = "```python\n"


@attrs.frozen
class Mbpp:
    """Builds the task.

    Arguments:
        options: protocol, rows and sampling.
    """

    Options = CodeOptions
    options: CodeOptions = attrs.field(factory=CodeOptions)

    def task(self) -> Task:
        """Return MBPP.

        Raises:
            UsageError: unknown protocol, or rows that are not there.
        """
        options = self.options
        protocol = parse_protocol(options.protocol, STYLES)
        rows = _official(SOURCE.rows(options.data))
        need(rows["test"], SOURCE, options.data, "test", "which are scored")
        examples = [row for row in rows["prompt"] if row["task_id"] in SHOWN][: protocol.shots]
        if protocol.shots:
            need(examples, SOURCE, options.data, "prompt", "which give the solved examples")
        tulu = protocol.style == "tulu"
        word = _tulu if tulu else _austin
        known: dict[str, str] = {}

        def items(split: str, shown: Sequence[RawRow] = ()) -> list[Item]:
            made = [word(row, shown) for row in rows[split]]
            known.update({i.prompt: r["text"] for i, r in zip(made, rows[split], strict=True)})
            return made

        lessons = options.train or (options.data if SOURCE.has_lessons(options.data) else "")
        return Asking(
            source=SOURCE,
            protocol=protocol,
            evaluator=code_tests(
                options, DRAWS[protocol.style], stops=("```",) if tulu else ("[DONE]",)
            ),
            card=TaskCard(
                summary="Short Python programs written from one sentence.",
                metric=f"pass@{options.k}",
                splitting="official splits by task_id; align and extract by hash of the sentence",
                mirrors="MBPP, arXiv 2108.07732",
            ),
            template="tulu" if tulu else "plain",
            max_new_tokens=options.max_new_tokens,
        ).task(
            items("test", examples),
            pool=items("train"),
            dev=items("validation", examples),
            lessons=SOURCE.lessons(lessons) if lessons else None,
            question=questions(known, question_of),
            where=lessons or options.data or SOURCE.hub,
        )


def _official(rows: Mapping[str, Sequence[RawRow]]) -> dict[str, list[RawRow]]:
    """Return the official splits; those of rows in one file by their `task_id`."""
    whole = rows.get("", ())
    return {
        split: list(rows.get(split, ())) or [row for row in whole if row["task_id"] in numbers]
        for split, numbers in RANGES.items()
    }


def _code(row: RawRow) -> str:
    return str(row["code"]).replace("\r\n", "\n").strip()


def _check(row: RawRow, begin: str) -> dict[str, str]:
    setup = row.get("test_setup_code") or ""
    return {
        "before": "",
        "after": "\n".join([setup, *row["test_list"], ""]),
        "begin": begin,
    }


def _tulu(row: RawRow, shown: Sequence[RawRow]) -> Item:
    begin = BEGIN + _FENCE
    prompt = f"{INSTRUCTION}{row['text'].strip()}\n{_code(row).split(':')[0]}"
    return Item(f"mbpp-{row['task_id']}", prompt, begin + _code(row), check=_check(row, begin))


def _austin(row: RawRow, shown: Sequence[RawRow]) -> Item:
    solved = "".join(f"{_task_text(e)}{_code(e)}\n[DONE]\n\n" for e in shown)
    prompt = f"{solved}{_task_text(row)}"
    return Item(f"mbpp-{row['task_id']}", prompt, _code(row) + "\n[DONE]", check=_check(row, ""))


def _task_text(row: RawRow) -> str:
    asserts = "\n".join(row["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text'].strip()} Your "
        f"code should pass these tests:\n\n{asserts}\n[BEGIN]\n"
    )


def question_of(prompt: str) -> str:
    """Return the sentence of a published training prompt."""
    return prompt.removeprefix(INSTRUCTION).split("\n")[0]

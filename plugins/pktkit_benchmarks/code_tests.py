"""`code-tests`: generated Python passes the problem's tests; pass@k over several answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.decoding import Decoding
from pktkit.errors import UsageError
from pktkit.generation import generate
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit_benchmarks.pass_at_k import pass_at_k
from pktkit_benchmarks.sandbox import Limits, Sandbox

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

PROGRAM_WORKER = Path(__file__).with_name("program_worker.py")
_FENCE = re.compile(r"```(?:[A-Za-z]\w*)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)


def fenced(text: str) -> str:
    """Return the first code fence of an answer, or all of it where it has none."""
    found = _FENCE.search(text)
    return found[1] if found else text


def program_of(text: str, check: Mapping[str, Any], take: str = "text") -> str:
    """Return the program to run: what precedes the answer, the answer, the tests.

    Arguments:
        text: what the model said.
        check: `before` and `after` of an item.
        take: `text` runs all of it, `fenced` its first code fence.
    """
    code = fenced(text) if take == "fenced" else text
    before = str(check["before"])
    # An answer that continues nothing starts at the left margin.
    code = code.rstrip() if before else code.strip()
    return f"{before}{code}\n{check['after']}"


def run_programs(programs: Sequence[str], limits: Limits | None = None) -> list[str]:
    """Run programs, each in a process of its own; return why each failed, empty where it passed.

    Raises:
        StrategyError: the sandbox cannot be started.
    """
    with Sandbox(limits or Limits(seconds=3.0), worker=PROGRAM_WORKER) as sandbox:
        return [sandbox.run_program(program) for program in programs]


@attrs.frozen
class CodeTestsOptions:
    """Options of `code-tests`."""

    samples: int = option(1, "Answers per problem.", validator=validators.ge(1))
    k: int = option(1, "Report pass@k, at most `samples`.", validator=validators.ge(1))
    temperature: float = option(0.0, "0 answers greedily.", validator=validators.ge(0))
    top_p: float = option(
        1.0,
        "Draw among the likeliest tokens that sum to this probability.",
        validator=validators.and_(validators.gt(0), validators.le(1)),
    )
    seed: int = option(0, "Of the draws.")
    stops: tuple[str, ...] = option((), "Texts that end an answer.")
    take: str = option(
        "text", "All of an answer, or the first code fence in it.", choices=("text", "fenced")
    )
    seconds: float = option(3.0, "Wall time for one program.", validator=validators.gt(0))
    memory_mib: int = option(512, "Memory of one program in MiB.", validator=validators.ge(64))

    def __attrs_post_init__(self) -> None:
        if self.k > self.samples:
            raise ValueError(
                f"pass@{self.k} needs at least {self.k} samples, got samples={self.samples}"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples={self.samples} at temperature 0 are all alike; set temperature"
            )


@attrs.frozen
class CodeTests:
    """Draws answers to every problem, runs each with the problem's tests, estimates pass@k.

    Arguments:
        options: sampling, stops and limits.
    """

    Options = CodeTestsOptions
    options: CodeTestsOptions = attrs.field(factory=CodeTestsOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order: its estimate of pass@k.

        Raises:
            UsageError: the task has no such split, or an item has no tests.
            StrategyError: the sandbox cannot be started.
        """
        items, options = task.items(split), self.options
        for item in items:
            _check(item)
        repeated = [item for item in items for _ in range(options.samples)]
        decoding = Decoding(
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
            stops=options.stops,
            trim=False,
        )
        texts = generate(
            model,
            [item.prompt for item in repeated],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
            begins=[str(item.check.get("begin", "")) for item in repeated],
            decoding=decoding,
        )
        n = options.samples
        return self.score(items, [texts[start : start + n] for start in range(0, len(texts), n)])

    def score(self, items: Sequence[Item], answers: Sequence[Sequence[str]]) -> list[ItemScore]:
        """Score answers that are already there, `samples` for each item.

        The prediction kept is the first answer.
        """
        options = self.options
        limits = Limits(seconds=options.seconds, memory=options.memory_mib << 20)
        programs = [
            program_of(text, item.check, options.take)
            for item, texts in zip(items, answers, strict=True)
            for text in texts
        ]
        # Equal programs, frequent at low temperature, run once.
        distinct = list(dict.fromkeys(programs))
        failed = dict(zip(distinct, run_programs(distinct, limits), strict=True))
        passed = iter([not failed[program] for program in programs])
        return [
            ItemScore(
                item.id,
                pass_at_k(len(texts), sum(next(passed) for _ in texts), options.k),
                texts[0],
            )
            for item, texts in zip(items, answers, strict=True)
        ]


def _check(item: Item) -> None:
    for key in ("before", "after"):
        if not isinstance(item.check.get(key), str):
            raise UsageError(
                f"code-tests: item '{item.id}' has no tests; its check needs texts `before` and "
                f"`after`, got {json.dumps(sorted(item.check))}. Rows to learn from cannot be "
                "scored: choose another split."
            )

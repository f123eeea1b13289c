"""`code-tests`: generated Python passes the problem's tests; pass@k over several answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.inference.generation import generate
from pktkit.inference.sampling import Sampling
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.permission import require_code_execution
from pktkit_benchmarks.pass_at_k import pass_at_k
from pktkit_benchmarks.programs import ProgramLimits, run_programs

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

_FENCE = re.compile(r"```(?:[A-Za-z]\w*)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)


def fenced(text: str) -> str:
    """Return the first code fence of an answer, or all of it where it has none."""
    found = _FENCE.search(text)
    return found[1] if found else text


def program_of(text: str, check: Mapping[str, Any], take: str = "text") -> tuple[str, str]:
    """Return the program to run, and what checks it.

    Arguments:
        text: what the model said.
        check: of the item: `before` the answer, tests `after` it.
        take: `text` runs all of it, `fenced` its first code fence.
    """
    code = fenced(text) if take == "fenced" else text
    before = str(check["before"])
    # An answer that continues nothing starts at the left margin.
    code = code.rstrip() if before else code.strip()
    return f"{before}{code}\n", str(check["after"])


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
    seconds: float = option(5.0, "Processor time of one program.", validator=validators.gt(0))
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
    capabilities = Capabilities(executes_code=True, scores_items_alone=True)
    options: CodeTestsOptions = attrs.field(factory=CodeTestsOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order: its estimate of pass@k.

        Raises:
            UsageError: the task has no such split, an item has no tests, or there is no
                permission to run programs.
            StrategyError: the sandbox cannot be started.
        """
        require_code_execution(f"task '{task.name}': evaluator 'code-tests'")
        items, options = task.items(split), self.options
        for item in items:
            _check(item)
        repeated = [item for item in items for _ in range(options.samples)]
        texts = generate(
            model,
            [item.prompt for item in repeated],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
            begins=[str(item.check.get("begin", "")) for item in repeated],
            stop=options.stops,
            strip=False,
            sampling=Sampling(options.temperature, options.top_p, options.seed),
        )
        n = options.samples
        return self.score(items, [texts[start : start + n] for start in range(0, len(texts), n)])

    def score(self, items: Sequence[Item], answers: Sequence[Sequence[str]]) -> list[ItemScore]:
        """Score answers that are already there, `samples` for each item.

        The prediction kept is the first answer.
        """
        options = self.options
        limits = ProgramLimits(seconds=options.seconds, memory=options.memory_mib << 20)
        programs = [
            program_of(text, item.check, options.take)
            for item, texts in zip(items, answers, strict=True)
            for text in texts
        ]
        # Equal programs, frequent at low temperature, run once.
        distinct = list(dict.fromkeys(programs))
        verdicts = dict(zip(distinct, run_programs(distinct, limits), strict=True))
        passed = iter([verdicts[program].passed for program in programs])
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

"""`code-execution`: the generated Python expression returns the right value for every input."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.inference.generation import generate
from pktkit.options import option
from pktkit.outcomes import ItemScore
from pktkit.permission import require_code_execution
from pktkit_benchmarks.sandbox import Limits, Outcome, Sandbox

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel
    from pktkit.tasks.base import Item, Task

_FENCE = re.compile(r"```(?:\w+\n)?(.*?)(?:```|$)", re.DOTALL)


def expression_of(text: str) -> str:
    """Return the expression of an answer: its first line, out of the code fence if it has one."""
    fenced = _FENCE.search(text)
    lines = (fenced.group(1) if fenced else text).strip().splitlines()
    return lines[0].strip() if lines else ""


def score_outcome(outcome: Outcome, check: Mapping[str, Any]) -> float:
    """Score one outcome: 1.0 when every input gave its output."""
    return float(not outcome.error and list(outcome.outputs) == list(check["outputs"]))


def score_expressions(
    predictions: Sequence[str],
    checks: Sequence[Mapping[str, Any]],
    limits: Limits | None = None,
    variable: str = "v",
) -> list[float]:
    """Run and score generated answers; an answer that fails or misbehaves costs itself only.

    Arguments:
        predictions: what the model said.
        checks: for each prediction `inputs` and `outputs`, lists of equal length.
        limits: what one expression may use.
        variable: the name the expressions read.

    Raises:
        UsageError: a check is malformed, or there is no permission to run programs.
        StrategyError: the sandbox cannot be started.
    """
    require_code_execution("code-execution")
    for number, check in enumerate(checks):
        _check(f"check {number}", check)
    with Sandbox(limits) as sandbox:
        return [
            score_outcome(sandbox.run(expression_of(text), check["inputs"], variable), check)
            for text, check in zip(predictions, checks, strict=True)
        ]


@attrs.frozen
class CodeExecutionOptions:
    """Options of `code-execution`."""

    seconds: float = option(2.0, "Wall time for one answer.", validator=validators.gt(0))
    memory_mib: int = option(
        256, "Address space of the sandbox in MiB.", validator=validators.ge(64)
    )
    variable: str = option(
        "v", "Name the expression reads.", validator=validators.matches_re(r"[a-z][a-z0-9_]*")
    )


@attrs.frozen
class CodeExecution:
    """Generates an expression for every prompt and runs it in a sandbox.

    Arguments:
        options: limits of the sandbox.
    """

    Options = CodeExecutionOptions
    capabilities = Capabilities(executes_code=True, scores_items_alone=True)
    options: CodeExecutionOptions = attrs.field(factory=CodeExecutionOptions)

    def evaluate(self, model: LoadedModel, task: Task, split: str) -> list[ItemScore]:
        """Return one score per item of `split`, in the split's order.

        Raises:
            UsageError: the task has no such split, an item lacks `check` inputs and outputs, or
                there is no permission to run programs.
            StrategyError: the sandbox cannot be started.
        """
        require_code_execution(f"task '{task.name}': evaluator 'code-execution'")
        items = task.items(split)
        for item in items:
            _check(f"item '{item.id}'", item.check)
        predictions = generate(
            model,
            [item.prompt for item in items],
            max_new_tokens=task.max_new_tokens,
            join=task.template,
        )
        return self.score(items, predictions)

    def score(self, items: Sequence[Item], predictions: Sequence[str]) -> list[ItemScore]:
        """Score predictions that are already there."""
        limits = Limits(seconds=self.options.seconds, memory=self.options.memory_mib << 20)
        checks = [item.check for item in items]
        scores = score_expressions(predictions, checks, limits, self.options.variable)
        return [
            ItemScore(item.id, score, text)
            for item, score, text in zip(items, scores, predictions, strict=True)
        ]


def _check(where: str, check: Mapping[str, Any]) -> None:
    inputs, outputs = check.get("inputs"), check.get("outputs")
    if not (isinstance(inputs, Sequence) and isinstance(outputs, Sequence)) or not inputs:
        raise UsageError(
            f"code-execution: {where} needs a check with lists `inputs` and `outputs`, got keys "
            f"{sorted(check)}."
        )
    if len(inputs) != len(outputs):
        raise UsageError(
            f"code-execution: {where} has {len(inputs)} inputs but {len(outputs)} outputs."
        )

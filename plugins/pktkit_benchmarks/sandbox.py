"""Evaluates generated expressions in a separate process that can be killed at any time.

One process serves many expressions. Whatever one of them does to it, by time, memory or crash,
costs that expression its score and the sandbox a restart. Whole programs are run by
`pktkit_benchmarks.programs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import attrs
from attrs import validators

from pktkit_benchmarks.worker_process import Lost, WorkerProcess


@attrs.frozen
class Limits:
    """What one expression may use.

    Arguments:
        seconds: wall time; the processor time allowed is a second or two more.
        memory: bytes of address space of the whole process, interpreter included.
        output_bytes: size of the answer as JSON.
    """

    seconds: float = attrs.field(default=2.0, validator=validators.gt(0))
    memory: int = attrs.field(default=256 << 20, validator=validators.ge(64 << 20))
    output_bytes: int = attrs.field(default=1 << 16, validator=validators.ge(256))


@attrs.frozen
class Outcome:
    """What became of one expression.

    Arguments:
        outputs: one value per input; empty when it failed.
        error: why it failed, or the empty string.
    """

    outputs: tuple[Any, ...] = ()
    error: str = ""


class Sandbox:
    """A context manager around the process; `run` evaluates one expression.

    Arguments:
        limits: per expression.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._worker = WorkerProcess(
            "expressions", attrs.asdict(self.limits), answer_bytes=self.limits.output_bytes
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.__exit__(kind, error, trace)

    def run(self, expression: str, inputs: Sequence[Any], variable: str = "v") -> Outcome:
        """Evaluate an expression on each input.

        Arguments:
            expression: one Python expression.
            inputs: values for `variable`; each must be JSON-serialisable.
            variable: the name the expression reads.

        Raises:
            StrategyError: the process cannot be started at all.
        """
        job = {"expression": expression, "inputs": list(inputs), "variable": variable}
        try:
            answer = self._worker.ask(job, self.limits.seconds)
        except Lost as lost:
            return Outcome(error=str(lost))
        if "outputs" in answer:
            return Outcome(outputs=tuple(answer["outputs"]))
        return Outcome(error=str(answer.get("error", "the answer is malformed")))

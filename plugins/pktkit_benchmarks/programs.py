"""Runs whole programs that a model wrote, each in a confined process of its own.

What is guaranteed where is told in `docs/code-execution.md`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import attrs
import structlog
from attrs import validators

from pktkit.permission import require_code_execution
from pktkit_benchmarks.worker_process import Lost, WorkerProcess

log = structlog.get_logger(__name__)

GRACE_SECONDS = 20.0
"""How much longer than a program's own limit its supervisor may take, on a busy machine."""

WALLS = ("limits", "landlock", "seccomp")
"""What a sandbox should have; where one is missing, that is told once."""

_ANSWER_BYTES = 1 << 13


@attrs.frozen
class ProgramLimits:
    """What one program may use.

    Arguments:
        seconds: processor time, counted in whole seconds: a busy machine changes no score.
        wall_seconds: time on the clock.
        memory: bytes of address space, interpreter included.
        file_bytes: largest file.
        folder_bytes, folder_entries: all files together, in bytes and in number.
        open_files: files open at a time.
        output_bytes: most that may be written to standard output, or to standard error.
        without: walls that are left out, to test the others.
    """

    seconds: float = attrs.field(default=5.0, validator=validators.gt(0))
    wall_seconds: float = attrs.field(default=30.0, validator=validators.gt(0))
    memory: int = attrs.field(default=512 << 20, validator=validators.ge(64 << 20))
    file_bytes: int = attrs.field(default=1 << 20, validator=validators.ge(0))
    folder_bytes: int = attrs.field(default=8 << 20, validator=validators.ge(0))
    folder_entries: int = attrs.field(default=200, validator=validators.ge(0))
    open_files: int = attrs.field(default=16, validator=validators.ge(1))
    output_bytes: int = attrs.field(default=1 << 18, validator=validators.ge(0))
    without: tuple[str, ...] = ()


@attrs.frozen
class Verdict:
    """What became of one program.

    Arguments:
        passed: it ran to its end, and so did its check.
        error: why not, or the empty string.
        output: the beginning of what it printed.
    """

    passed: bool
    error: str = ""
    output: str = ""


class ProgramSandbox:
    """A context manager around a supervisor; `run` runs one program in a new process.

    Arguments:
        limits: per program.

    Raises:
        UsageError: there is no permission to run programs, see `pktkit.permission`.
    """

    def __init__(self, limits: ProgramLimits | None = None) -> None:
        require_code_execution("the program sandbox")
        self.limits = limits or ProgramLimits()
        self._worker = WorkerProcess(
            "programs", attrs.asdict(self.limits), answer_bytes=_ANSWER_BYTES
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

    @property
    def walls(self) -> tuple[str, ...]:
        """The walls that stand around programs; empty before the first one."""
        return self._worker.walls

    def run(self, program: str, check: str = "") -> Verdict:
        """Run a program, then what checks it.

        Arguments:
            program: Python source that a model wrote.
            check: Python source that is ours, run in the same process with the program's names;
                it passes when it raises nothing.

        Raises:
            StrategyError: the supervisor cannot be started at all.
        """
        job = {"program": program, "check": check}
        try:
            answer = self._worker.ask(job, self.limits.wall_seconds + GRACE_SECONDS)
        except Lost as lost:
            return Verdict(False, str(lost))
        missing = [wall for wall in WALLS if wall not in self.walls]
        if missing and not self.limits.without:
            _tell_missing(", ".join(missing))
        return Verdict(bool(answer["passed"]), str(answer["error"]), str(answer["output"]))


def run_programs(
    programs: Iterable[tuple[str, str]], limits: ProgramLimits | None = None
) -> list[Verdict]:
    """Run programs with their checks, one after another, each in a new process.

    Arguments:
        programs: pairs of program and check, see `ProgramSandbox.run`.
        limits: per program.

    Raises:
        UsageError: there is no permission to run programs.
        StrategyError: the sandbox cannot be started.
    """
    with ProgramSandbox(limits) as sandbox:
        return [sandbox.run(program, check) for program, check in programs]


@functools.cache
def _tell_missing(walls: str) -> None:
    log.warning(
        "this system lacks walls of the code sandbox, see docs/code-execution.md", missing=walls
    )

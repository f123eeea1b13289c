"""Evaluates generated expressions in a separate process that can be killed at any time.

One process serves many expressions. Whatever one of them does to it, by time, memory or crash,
costs that expression its score and the sandbox a restart. This contains mistakes of a model and
casual mischief; it is no defence against an expert with an interpreter exploit.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
from attrs import validators

from pktkit.errors import StrategyError

WORKER = Path(__file__).with_name("sandbox_worker.py")
START_SECONDS = 30.0
_CHUNK = 1 << 16


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
    output_bytes: int = attrs.field(default=1 << 16, validator=validators.ge(64))


@attrs.frozen
class Outcome:
    """What became of one expression.

    Arguments:
        outputs: one value per input; empty when it failed.
        error: why it failed, or the empty string.
    """

    outputs: tuple[Any, ...] = ()
    error: str = ""


class _Lost(Exception):
    """The process gave no proper answer; the message says what happened instead."""


class Sandbox:
    """A context manager around the process; `run` evaluates one expression.

    Arguments:
        limits: per expression.
        worker: the script that the process runs.
    """

    def __init__(self, limits: Limits | None = None, worker: Path = WORKER) -> None:
        self.limits = limits or Limits()
        self._worker = worker
        self._folder = tempfile.TemporaryDirectory(prefix="pktkit-sandbox-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._folder.cleanup()

    def run(self, expression: str, inputs: Sequence[Any], variable: str = "v") -> Outcome:
        """Evaluate an expression on each input.

        Arguments:
            expression: one Python expression.
            inputs: values for `variable`; each must be JSON-serialisable.
            variable: the name the expression reads.

        Raises:
            StrategyError: the process cannot be started at all.
        """
        if self._process is None:
            self._start()
        job = {"expression": expression, "inputs": list(inputs), "variable": variable}
        try:
            answer = self._ask(json.dumps(job).encode() + b"\n", self.limits.seconds)
        except _Lost as lost:
            self._stop()
            return Outcome(error=str(lost))
        if "outputs" in answer:
            return Outcome(outputs=tuple(answer["outputs"]))
        return Outcome(error=str(answer.get("error", "the answer is malformed")))

    def run_program(self, program: str) -> str:
        """Run a program with its tests, for the worker that takes programs.

        Returns:
            Why it failed; empty where it ran to its end.

        Raises:
            StrategyError: the process cannot be started at all.
        """
        if self._process is None:
            self._start()
        try:
            line = json.dumps({"program": program}).encode() + b"\n"
            # The worker itself keeps the time of the program; this is for the worker.
            answer = self._ask(line, self.limits.seconds + START_SECONDS)
        except _Lost as lost:
            self._stop()
            return str(lost)
        return str(answer.get("error", "the answer is malformed"))

    def _start(self) -> None:
        """Start the process: own group, empty environment, no files of ours, empty folder."""
        limits = json.dumps(attrs.asdict(self.limits))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(self._worker), limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=self._folder.name,
            close_fds=True,
            start_new_session=True,
            bufsize=0,
        )
        try:
            self._ask(b"", START_SECONDS)
        except _Lost as lost:
            self._stop()
            raise StrategyError(
                f"the code sandbox does not start ({lost}); it needs {sys.executable} on Linux or "
                f"macOS with at least {self.limits.memory >> 20} MiB of memory."
            ) from lost

    def _ask(self, line: bytes, seconds: float) -> Mapping[str, Any]:
        """Send a line and return the answer; anything but one JSON object in time is `_Lost`."""
        assert self._process is not None and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line)
            raw = self._read_line(time.monotonic() + seconds)
            answer = json.loads(raw)
        except BrokenPipeError as error:
            raise _Lost("the process ended") from error
        except (ValueError, RecursionError) as error:
            raise _Lost("the answer is malformed") from error
        if not isinstance(answer, dict):
            raise _Lost("the answer is malformed")
        return answer

    def _read_line(self, deadline: float) -> bytes:
        """Read one line, giving up at the deadline or when it grows too long."""
        assert self._process is not None and self._process.stdout is not None
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise _Lost("ran out of time")
                chunk = os.read(self._process.stdout.fileno(), _CHUNK)
                if not chunk:
                    raise _Lost(f"the process ended with status {self._process.wait()}")
                received += chunk
                if len(received) > self.limits.output_bytes + 1:
                    raise _Lost("too much output")
        return received

    def _stop(self) -> None:
        """Kill the process with whatever it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

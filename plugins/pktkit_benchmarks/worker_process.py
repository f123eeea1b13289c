"""A process on the other side of the wall, asked in JSON lines, killed when it does not answer."""

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
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pktkit.errors import StrategyError
from pktkit_benchmarks.confined.folders import emptied

START_SECONDS = 60.0
_CHUNK = 1 << 16
_BOOT = """
import sys
place, module, limits = sys.argv[1:]
sys.path.insert(0, place)
import importlib, json
main = importlib.import_module(f"confined.{module}").main
sys.path.remove(place)
main(json.loads(limits))
"""
ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""The whole environment of a worker: sets of texts are ordered alike in every run."""


class Lost(Exception):
    """The process gave no proper answer; the message says what happened instead."""


class WorkerProcess:
    """A context manager around the process, which is started when it is first asked.

    Arguments:
        module: of `pktkit_benchmarks.confined`.
        limits: what its `main` is given, JSON-serialisable.
        answer_bytes: longest answer that is read.
    """

    def __init__(self, module: str, limits: Mapping[str, Any], *, answer_bytes: int) -> None:
        self._module, self._limits, self._answer_bytes = module, dict(limits), answer_bytes
        self._folder = tempfile.TemporaryDirectory(prefix="pktkit-sandbox-")
        self._process: subprocess.Popen[bytes] | None = None
        self.walls: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._folder.cleanup()

    def ask(self, job: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """Send a job and return the answer; the process is stopped when there is none in time.

        Raises:
            Lost: no proper answer.
            StrategyError: the process cannot be started at all.
        """
        if self._process is None:
            self._start()
        try:
            return self._asked(json.dumps(job).encode() + b"\n", seconds)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kill the process with its group."""
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
        with contextlib.suppress(OSError):
            emptied(self._folder.name)

    def _start(self) -> None:
        """Start the process: own session, no environment or files of ours, empty folder."""
        place = str(Path(__file__).parent)
        flags = ["-s", "-S", "-P", "-B", "-X", "utf8"]  # as -I, which would drop the environment
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", _BOOT, place, self._module, json.dumps(self._limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=self._folder.name,
            close_fds=True,
            start_new_session=True,
            bufsize=0,
        )
        try:
            ready = self._asked(b"", START_SECONDS)
            if not ready.get("ready"):
                raise Lost(str(ready.get("error")))
        except Lost as lost:
            self.stop()
            raise StrategyError(
                f"the code sandbox does not start ({lost}); it needs {sys.executable} on Linux or "
                f"macOS with at least {self._limits['memory'] >> 20} MiB of memory."
            ) from lost
        self.walls = tuple(ready.get("walls", ()))

    def _asked(self, line: bytes, seconds: float) -> Mapping[str, Any]:
        """Send a line and return the answer; anything but one JSON object in time is `Lost`."""
        assert self._process is not None and self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line)
            answer = json.loads(self._read_line(time.monotonic() + seconds))
        except BrokenPipeError as error:
            raise Lost("the process ended") from error
        except (ValueError, RecursionError) as error:
            raise Lost("the answer is malformed") from error
        if not isinstance(answer, dict):
            raise Lost("the answer is malformed")
        return answer

    def _read_line(self, deadline: float) -> bytes:
        """Read one line, giving up at the deadline or when it grows too long."""
        assert self._process is not None and self._process.stdout is not None
        received = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not received.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise Lost("ran out of time")
                chunk = os.read(self._process.stdout.fileno(), _CHUNK)
                if not chunk:
                    raise Lost(f"the process ended with status {self._process.wait()}")
                received += chunk
                if len(received) > self._answer_bytes + 1:
                    raise Lost("too much output")
        return bytes(received)

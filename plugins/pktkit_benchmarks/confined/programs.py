"""The supervisor of programs: reads them as JSON lines, runs each in a child of its own.

The supervisor has imported what programs usually import, so that a child costs milliseconds. A
child confines itself, runs the program and what checks it, and tells the supervisor how it went on
a pipe of its own, with a word that nobody else knows. The supervisor reads all that the child
writes, within bounds, and kills it when it takes too long or too much.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import random
import secrets
import selectors
import signal
import sys
import time
from typing import Any

from .confinement import confine, owner
from .folders import emptied, usage

PRELOADED = (
    *("typing", "math", "re", "collections", "itertools", "functools", "heapq", "bisect"),
    *("string", "random", "statistics", "datetime", "copy", "operator", "decimal", "fractions"),
    *("hashlib", "json", "time", "os", "sys", "dataclasses", "enum", "abc", "contextlib"),
)
"""What most programs import; anything else of the standard library is imported when asked for."""

POLL_SECONDS = 0.05
_CHUNK = 1 << 16
_PR_SET_CHILD_SUBREAPER = 36
_RESULT = 3


def main(limits: dict[str, Any]) -> None:
    """Answer jobs until the input ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    adopt_orphans()
    os.chmod(".", 0o711)  # a child that runs as another user must pass through
    gc.freeze()  # pages of what is loaded stay shared with the children
    trial = Run(limits, "", "").answer()
    print(json.dumps({"ready": trial["passed"], **trial}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(Run(limits, job["program"], job["check"]).answer()), flush=True)


class Run:
    """One program in one child.

    Arguments:
        limits: fields of `pktkit_benchmarks.programs.ProgramLimits`.
        program: what a model wrote.
        check: run after it; it fails by raising.
    """

    def __init__(self, limits: dict[str, Any], program: str, check: str) -> None:
        self.limits = limits
        self.program, self.check = program, check
        self.word = secrets.token_hex(16)
        self.received: dict[str, bytearray] = {n: bytearray() for n in ("out", "err", "result")}
        self.walls: list[str] = []

    def answer(self) -> dict[str, Any]:
        """Run the program; return whether it passed, why not, and what it printed."""
        folder = os.path.abspath("program")
        os.mkdir(folder, 0o700)
        try:
            os.chown(folder, owner(), -1)
            problem, status = self._supervised(folder)
        finally:
            emptied(folder)
            os.rmdir(folder)
        told = self._told()
        error = problem or (told["error"] if told else self._ending(status))
        return {
            "passed": not error,
            "error": error,
            "output": self.received["out"][:2000].decode(errors="replace"),
            "walls": told["walls"] if told else [],
        }

    def _supervised(self, folder: str) -> tuple[str, int]:
        """Fork, watch and kill; return why the child was killed, if it was, and its status."""
        pipes = {name: os.pipe() for name in self.received}
        child = os.fork()
        if child == 0:
            self._be_the_child(folder, [write for _, write in pipes.values()])
        for _, write in pipes.values():
            os.close(write)
        reads = {read: name for name, (read, _) in pipes.items()}
        status: int | None = None
        try:
            problem, status = self._watch(child, reads, folder)
        finally:
            status = _killed(child) if status is None else status
            if "seccomp" not in self.walls:
                kill_orphans()
            for read in reads:
                os.close(read)
        return problem, status

    def _watch(self, child: int, reads: dict[int, str], folder: str) -> tuple[str, int | None]:
        """Read what the child writes until it ends; stop early when it breaks a limit."""
        deadline = time.monotonic() + self.limits["wall_seconds"]
        looked = time.monotonic()
        with selectors.DefaultSelector() as selector, _ending_of(child) as ended:
            for place in (*reads, *ended):
                selector.register(place, selectors.EVENT_READ)
            selector.register(0, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(POLL_SECONDS)}
                for place in ready & reads.keys():
                    if not self._read(place, reads[place]):
                        selector.unregister(place)
                if 0 in ready:  # whoever asked is gone, or does not wait for the answer
                    return "nobody waits for the result", None
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    self._drain(reads)
                    return self._flood(), status
                if self._flood():
                    return self._flood(), None
                if time.monotonic() > deadline:
                    return f"ran out of time ({self.limits['wall_seconds']:g} s)", None
                if time.monotonic() > looked + POLL_SECONDS:
                    looked = time.monotonic()
                    entries, held = usage(folder, self.limits["folder_entries"])
                    if entries > self.limits["folder_entries"]:
                        return f"more than {self.limits['folder_entries']} files", None
                    if held > self.limits["folder_bytes"]:
                        return f"more than {self.limits['folder_bytes']} bytes in files", None

    def _read(self, place: int, name: str) -> bool:
        """Read a piece; False at the end of the stream."""
        piece = os.read(place, _CHUNK)
        self.received[name] += piece
        return bool(piece)

    def _drain(self, reads: dict[int, str]) -> None:
        """Read what is left in the pipes of a child that has ended."""
        for place, name in reads.items():
            os.set_blocking(place, False)
            with contextlib.suppress(BlockingIOError):
                while not self._flood() and self._read(place, name):
                    pass

    def _flood(self) -> str:
        most = self.limits["output_bytes"]
        if any(len(received) > most for received in self.received.values()):
            return f"more than {most} bytes of output"
        return ""

    def _told(self) -> dict[str, Any] | None:
        """Return what the child told, None if it told nothing or what it cannot have told."""
        for line in bytes(self.received["result"]).split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                told = json.loads(line)
                if isinstance(told, dict) and told.get("word") == self.word:
                    return told
        return None

    def _ending(self, status: int) -> str:
        """Say how a child ended that told nothing."""
        if not os.WIFSIGNALED(status):
            return f"ended by itself before its end, with status {os.WEXITSTATUS(status)}"
        number = os.WTERMSIG(status)
        if number == signal.SIGKILL:
            return f"ran out of processor time ({self.limits['seconds']:g} s), or was killed"
        return f"killed by signal {signal.Signals(number).name}"

    def _be_the_child(self, folder: str, writes: list[int]) -> None:
        """Arrange descriptors, confine, run, tell, end; never return."""
        try:
            os.setsid()
            _arrange(writes)
            os.chdir(folder)
            os.environ.clear()
            sys.path[:] = [path for path in sys.path if "pktkit" not in path]
            walls = confine(
                memory=self.limits["memory"],
                folder=folder,
                seconds=math.ceil(time.process_time() + self.limits["seconds"]),
                file_bytes=self.limits["file_bytes"],
                files=self.limits["open_files"],
                without=self.limits["without"],
            )
            error = executed(self.program, self.check)
            told = json.dumps({"word": self.word, "error": error, "walls": walls})
            os.write(_RESULT, b"\n" + told.encode() + b"\n")
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)


def executed(program: str, check: str) -> str:
    """Run a program and what checks it; return what went wrong, or the empty string.

    The check sees the program's names, but builtins as they were before the program ran.
    """
    untouched = dict(vars(builtins))
    describe = _describe
    random.seed(0)
    try:
        scope: dict[str, Any] = {"__name__": "program", "__builtins__": dict(untouched)}
        exec(compile(program, "<program>", "exec", dont_inherit=True), scope)
        exec(
            compile(check, "<check>", "exec", dont_inherit=True),
            scope | {"__builtins__": untouched},
        )
    except BaseException as error:
        return describe(error)
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    return ""


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {str(error)[:200]}".removesuffix(": ")
    except BaseException:
        return "an error that cannot be described"


def _arrange(writes: list[int]) -> None:
    """Make standard input empty, and the pipes standard output, error and `_RESULT`."""
    empty = os.open(os.devnull, os.O_RDONLY)
    high = [os.dup(place) for place in writes]  # away from the numbers they will get
    sources = [empty, *high]
    parked = [os.dup(place) for place in sources]
    while min(parked) <= _RESULT:
        parked = [os.dup(place) for place in parked]
    for target, place in enumerate(parked):
        os.dup2(place, target)
    os.closerange(_RESULT + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 256)
    sys.stdin = open(0)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1 << 13)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1)  # noqa: SIM115


@contextlib.contextmanager
def _ending_of(child: int) -> Any:
    """Give a descriptor that can be read once the child has ended, where there is such a thing."""
    try:
        place = os.pidfd_open(child)
    except (AttributeError, OSError):
        yield []
        return
    try:
        yield [place]
    finally:
        os.close(place)


def _killed(child: int) -> int:
    """Kill a child with its group; return its status."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        zero = ctypes.c_ulong(0)
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), zero, zero, zero)


def kill_orphans() -> None:
    """Kill and collect all descendants, whatever group or session they moved to."""
    for _ in range(1000):
        found = _children()
        for child in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not found:
            return
        time.sleep(0.001)


def _children() -> list[int]:
    """Return the processes whose parent this one is."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                    if int(file.read().rsplit(b")", 1)[1].split()[1]) == os.getpid():
                        found.append(int(name))
    return found

"""The process that runs programs with their tests: one forked, confined child for each.

Run as `python -I -S -B program_worker.py LIMITS`, with `LIMITS` a JSON object. It reads jobs as
JSON lines and answers in JSON lines. It runs no foreign code itself: it imports the standard
modules that programs use, forks, and kills the child at the deadline. The child gives up what
`sandbox_worker.confine` takes away, and the functions that end or replace processes, before it
reads the program. This contains the mistakes of a model and casual mischief, not an expert.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import io
import json
import os
import secrets
import selectors
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    *("abc", "array", "bisect", "cmath", "collections", "collections.abc", "copy", "dataclasses"),
    *("datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "itertools"),
    *("json", "math", "numbers", "operator", "queue", "random", "re", "statistics", "string"),
    *("struct", "sys", "textwrap", "time", "timeit", "typing", "unicodedata"),
)
"""Standard modules that solutions import; a child can open no file, so they are here before."""

REMOVED = {
    "os": (
        *("kill", "killpg", "fork", "forkpty", "system", "popen", "putenv", "remove", "removedirs"),
        *("rmdir", "rename", "renames", "replace", "unlink", "truncate", "chmod", "chown", "chdir"),
        *("fchdir", "fchmod", "fchown", "setuid", "setgid", "setsid", "getcwd", "abort", "_exit"),
        *("execv", "execve", "posix_spawn", "posix_spawnp", "pidfd_open", "mkdir", "link"),
    ),
    "posix": (
        *("kill", "killpg", "fork", "forkpty", "system", "remove", "rmdir", "rename", "unlink"),
        *("replace", "truncate", "chmod", "chown", "chdir", "setuid", "setgid", "setsid", "abort"),
        *("_exit", "execv", "execve", "posix_spawn", "posix_spawnp", "pidfd_open", "mkdir", "link"),
    ),
    "signal": ("signal", "alarm", "raise_signal", "pthread_kill", "setitimer", "pidfd_send_signal"),
    "_signal": ("signal", "alarm", "raise_signal", "pthread_kill", "setitimer"),
}
MESSAGE_BYTES = 4096


def confinement() -> ModuleType:
    """Load `sandbox_worker`, which lies beside this file; isolated mode leaves it off the path."""
    path = Path(__file__).with_name("sandbox_worker.py")
    spec = importlib.util.spec_from_file_location("sandbox_worker", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def disarm() -> None:
    """Take away what ends, replaces or disturbs processes and files; input and output are empty."""
    for name, functions in REMOVED.items():
        module = sys.modules.get(name)
        for function in functions:
            if module is not None and hasattr(module, function):
                setattr(module, function, None)
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    for name in ("input", "exit", "quit"):
        setattr(builtins, name, None)


def outcome(program: str) -> str:
    """Run a program; return why it failed, or the empty string."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), scope)
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


def child(job: dict[str, Any], limits: dict[str, Any], channel: int, walls: ModuleType) -> None:
    """Confine this process, run the program, say what became of it, and end."""
    end, write = os._exit, os.write
    # The secret stands for a program that ran to its end: leaving early says nothing.
    secret = str(job["secret"])
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(null)
        walls.allow_seconds(limits["seconds"])
        walls.confine(limits["memory"])
        disarm()
        error = outcome(str(job["program"]))
        answer = {"error": error[:MESSAGE_BYTES], "secret": secret}
        write(channel, json.dumps(answer).encode())
    finally:
        end(0)


def run(job: dict[str, Any], limits: dict[str, Any], walls: ModuleType) -> str:
    """Run one job in a child of its own; return why it failed, or the empty string."""
    job = {**job, "secret": secrets.token_hex(16)}
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receiving)
        child(job, limits, sending, walls)
    os.close(sending)
    try:
        said = listen(receiving, time.monotonic() + limits["seconds"])
    finally:
        os.close(receiving)
        for kill in (os.killpg, os.kill):
            try:
                kill(pid, signal.SIGKILL)
            except OSError:
                continue
        _, status = os.waitpid(pid, 0)
    if said is None:
        return "ran out of time"
    try:
        answer = json.loads(said)
        if answer["secret"] == job["secret"]:
            return str(answer["error"])
    except (ValueError, TypeError, KeyError):
        pass
    return f"the program ended its process (status {os.waitstatus_to_exitcode(status)})"


def listen(channel: int, deadline: float) -> bytes | None:
    """Read until the child closes its end; None at the deadline."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                return None
            chunk = os.read(channel, MESSAGE_BYTES)
            if not chunk or len(received) > 4 * MESSAGE_BYTES:
                return received
            received += chunk


def main() -> None:
    """Import what programs need, then answer jobs until the input ends."""
    limits = json.loads(sys.argv[1])
    for name in MODULES:
        importlib.import_module(name)
    walls = confinement()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"error": run(json.loads(line), limits, walls)}), flush=True)


if __name__ == "__main__":
    main()

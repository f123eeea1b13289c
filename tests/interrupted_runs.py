"""Kill a comparison at random moments and go on with it; prints what came of it as JSON.

Imports everything once and forks every run, since importing takes longer than a tiny run.

Run: python tests/interrupted_runs.py FOLDER SEED MOMENTS
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tiny_runs import arguments

import pktkit.compare.warm  # noqa: F401
from pktkit.cli import main


def start(line: list[str], log: Path) -> int:
    """Start a command in a process group of its own."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            main(line, prog_name="pktkit")
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(99)
    return process


def kill_at(process: int, file: Path, size: int) -> None:
    """Kill a run when a file of it has reached a size."""
    while not file.exists() or file.stat().st_size < size:
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            sys.exit(f"the run ended before {file} had {size} bytes")
        time.sleep(0.001)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(folder: Path, seed: int, moments: int) -> None:
    log, whole = folder / "log.txt", folder / "whole"
    assert ended(start(arguments(folder, "--jobs=0", f"--out={whole}"), log)) == 0
    lines = (whole / "cells.jsonl").read_bytes().splitlines(keepends=True)
    last = sum(map(len, lines[:-1]))
    chance = random.Random(seed)
    found = []
    for moment in range(moments):
        out = folder / f"run-{moment}"
        # Stratified: some runs stop before their first cell, some before their last.
        size = int(last * (moment + chance.random()) / moments)
        process = start(arguments(folder, "--jobs=0", f"--out={out}"), log)
        if moment:
            kill_at(process, out / "cells.jsonl", max(1, size))
        else:
            kill_at(process, out / "run.lock", 1)
        if moment % 2:  # as if the kill had come in the middle of a line
            content = (out / "cells.jsonl").read_bytes()
            os.truncate(out / "cells.jsonl", len(content) - chance.randrange(1, len(lines[0])))
        stopped = len((out / "cells.jsonl").read_bytes().splitlines())
        assert not (out / "results.json").exists()
        code = ended(start(["compare", f"--resume={out}", "--jobs=0"], log))
        found.append({"run": out.name, "cells": stopped, "code": code})
    print(json.dumps(found))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

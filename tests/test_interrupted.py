"""Runs killed at any moment go on and end with the scores of a run that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tiny_runs import arguments, cells_of, scores_of, write_pair

TESTS = Path(__file__).parent
MOMENTS = 6
SEED = 20240607


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    write_pair(folder)
    done = subprocess.run(
        [sys.executable, TESTS / "interrupted_runs.py", folder, str(SEED), str(MOMENTS)],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr + (folder / "log.txt").read_text()
    (folder / "found.json").write_text(done.stdout)
    return folder


def environment():
    path = os.pathsep.join([str(TESTS), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def test_runs_killed_at_random_moments_end_with_the_same_scores(folder):
    found = json.loads((folder / "found.json").read_text())
    assert len(found) == MOMENTS
    whole = scores_of(folder / "whole")
    for each in found:
        assert each["code"] == 0, each
        assert scores_of(folder / each["run"]) == whole, each
        assert cells_of(folder / each["run"]) == cells_of(folder / "whole"), each
    stopped = [each["cells"] for each in found]
    assert min(stopped) == 0 and max(stopped) > 4, "early and late moments"
    means = [row["mean"] for task in whole.values() for row in task["rows"]]
    assert len(set(means)) > 1, "rows have scores of their own, or this test shows nothing"


def test_workers_end_with_a_killed_parent_and_their_number_changes_no_score(folder):
    out = folder / "workers"
    parent = subprocess.Popen(
        [sys.executable, "-m", "pktkit", *arguments(folder, "--jobs=2", f"--out={out}")],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: (out / "cells.jsonl").exists() and b"\n" in (out / "cells.jsonl").read_bytes())
    descendants = psutil.Process(parent.pid).children(recursive=True)
    assert len(descendants) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(descendants, timeout=60)
    # Where nobody reaps orphans, a process that has ended is still listed.
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not alive
    assert not (out / "results.json").exists()
    done = subprocess.run(
        [sys.executable, "-m", "pktkit", "compare", f"--resume={out}", "--jobs=1"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert scores_of(out) == scores_of(folder / "whole")
    assert cells_of(out) == cells_of(folder / "whole")


def wait_for(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)

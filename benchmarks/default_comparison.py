"""Wall time and peak memory of the default comparison, all its processes together.

Memory is the proportional set size (pages shared by n processes count 1/n each), sampled.

Run: python benchmarks/default_comparison.py [ARGUMENTS OF pktkit compare]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import psutil

EVERY = 2.0
"""Seconds between two samples."""
DEFAULT = ["--strategies", "latent,seeking,naive"]


def proportional_bytes(process: psutil.Process) -> int:
    """Return the proportional set size of a process and its descendants."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it ended between listing and reading
            continue
    return total


def main() -> None:
    """Run the comparison, pass its output through, and print what it took."""
    arguments = sys.argv[1:] or DEFAULT
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pktkit", "compare", *arguments, "--out", f"{folder}/run"]
        start, peak = time.perf_counter(), 0
        running = psutil.Popen(command)
        while True:
            peak = max(peak, proportional_bytes(running))
            try:
                status = running.wait(EVERY)
                break
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                continue
    print(f"exit {status}  {time.perf_counter() - start:.1f} s  peak {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()

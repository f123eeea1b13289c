"""The share of a comparison's wall time that is neither training nor generation nor probing.

    python benchmarks/overhead.py [ARGUMENTS OF pktkit compare]

Without arguments: the default comparison of the README. A quiet machine is needed, for the figure
is wall time; the load before and after is printed.

What counts as work, by worker: the stages of a cell that use a model (`data`: drawing rows and
generating the source's answers; `match`, `align`: reading states; `inject`: training;
`evaluate`: generating and scoring). A moment of wall time is work if some worker runs a cell then.
Overhead is the rest:

* start: from the command to the first cell: imports, plan, lock with the hashes of all files and
  rows, starting workers, loading the pair;
* in cells: what cells spend outside of these stages (journals and their checksums, encoding the
  items, memory counters), shared among the workers;
* between cells: no worker had one;
* end: from the last cell to the end of the process: statistics, tables, both reports, exit.

Analyses asked for with --analyze are work that is not seen here, and count as `end`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

DEFAULT = ["--strategies", "latent,seeking,naive"]
OTHER = "other"

WATCHED = """
import json, sys, time
from pktkit.cli import main
from pktkit.compare import run

run_cells = run.run_cells

def watched(plan, cells, *, jobs, **options):
    with open({file!r}, "w") as file:
        print(jobs, file=file)
        for result in run_cells(plan, cells, jobs=jobs, **options):
            print(json.dumps([time.time(), dict(result.seconds)]), file=file, flush=True)
            yield result

run.run_cells = watched
main({arguments!r}, prog_name="pktkit")
"""


@attrs.frozen
class Cell:
    """When a cell ended and what it took; wall clock in seconds."""

    end: float
    stages: dict[str, float]

    @property
    def start(self) -> float:
        """When it began."""
        return self.end - sum(self.stages.values())


@attrs.frozen
class Overhead:
    """Seconds of wall time by part."""

    start: float
    in_cells: float
    between: float
    end: float
    wall: float

    @property
    def share(self) -> float:
        """Overhead over wall time."""
        return (self.start + self.in_cells + self.between + self.end) / self.wall


def overhead(began: float, ended: float, cells: Sequence[Cell], jobs: int) -> Overhead:
    """Split the wall time of a run.

    Arguments:
        began, ended: of the process.
        jobs: workers that ran the cells, at least 1.
    """
    first, last = min(cell.start for cell in cells), max(cell.end for cell in cells)
    covered, reached = 0.0, first
    for cell in sorted(cells, key=lambda each: each.start):
        covered += max(0.0, cell.end - max(reached, cell.start))
        reached = max(reached, cell.end)
    return Overhead(
        start=first - began,
        in_cells=sum(cell.stages.get(OTHER, 0.0) for cell in cells) / jobs,
        between=last - first - covered,
        end=ended - last,
        wall=ended - began,
    )


def main() -> None:
    """Run the comparison and print where its wall time went."""
    arguments = sys.argv[1:] or DEFAULT
    print(f"load {os.getloadavg()[0]:.1f} before", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "cells")
        command = ["compare", *arguments, "--out", str(Path(folder) / "run")]
        program = WATCHED.format(file=file, arguments=command)
        began = time.time()
        status = subprocess.run([sys.executable, "-c", program]).returncode
        ended = time.time()
        first, *lines = Path(file).read_text().splitlines()
    found = overhead(began, ended, [Cell(*json.loads(line)) for line in lines], max(1, int(first)))
    print(f"load {os.getloadavg()[0]:.1f} after, {len(lines)} cells, {first} workers")
    for name, value in attrs.asdict(found).items():
        print(f"{name:<9} {value:8.2f} s  {100 * value / found.wall:5.1f} %")
    print(f"overhead  {100 * found.share:.1f} % of wall time, exit {status}")


if __name__ == "__main__":
    main()

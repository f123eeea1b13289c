"""How long `pktkit --help` and `pktkit plugins list` take with many plugins installed.

    python benchmarks/startup.py [--plugins 20] [--runs 9]

Writes the plugins into a temporary directory, as installed distributions, and puts it on
PYTHONPATH. Prints median and least wall and processor seconds over the runs, each in a process of
its own, and which heavy libraries a run has imported at its end.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HEAVY = ("torch", "transformers", "peft", "scipy", "matplotlib", "pluggy")
COMMANDS = (("--help",), ("plugins", "list"))

PLUGIN = """
from pktkit.components import Component
from pktkit.hookspecs import hookimpl

PKTKIT_API = 1


@hookimpl
def pktkit_latent_aligners():
    return [Component("aligner-{number}", "startup_{number}.aligner:Aligner", "an aligner")]


@hookimpl
def pktkit_strategies():
    return [Component("strategy-{number}", "startup_{number}:STRATEGY", "a strategy")]
"""

WATCHED = """
import sys
from pktkit.cli import main
try:
    main({arguments!r}, prog_name="pktkit")
finally:
    print("HEAVY", *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def install(directory: pathlib.Path, count: int) -> None:
    """Write plugin distributions."""
    for number in range(count):
        info = directory / f"startup_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: startup-{number}\nVersion: 1.0\n"
        )
        (info / "entry_points.txt").write_text(f"[pktkit]\nstartup-{number} = startup_{number}\n")
        (directory / f"startup_{number}.py").write_text(PLUGIN.format(number=number))


def seconds_of(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command and return its wall and processor seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def heavy_after(arguments: tuple[str, ...], environment: dict[str, str]) -> list[str]:
    """Return which heavy libraries a command has imported by its end."""
    code = WATCHED.format(arguments=list(arguments), heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    return done.stderr.rpartition("HEAVY")[2].split()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugins", type=int, default=20)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as site:
        install(pathlib.Path(site), arguments.plugins)
        paths = [site, os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        for command in COMMANDS:
            times = [
                seconds_of([sys.executable, "-m", "pktkit", *command], environment)
                for _ in range(arguments.runs)
            ]
            heavy = ", ".join(heavy_after(command, environment)) or "none"
            print(f"pktkit {' '.join(command)}  with {arguments.plugins} plugins")
            for name, values in zip(("wall", "processor"), zip(*times, strict=True), strict=True):
                median, least = statistics.median(values), min(values)
                print(f"  {name:<9} median {median:.3f} s  least {least:.3f} s")
            print(f"  heavy imports: {heavy}")


if __name__ == "__main__":
    main()

"""Running a comparison under a progress display, for every command that does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED, PktkitError
from pktkit.processes import ALONE, Processes

if TYPE_CHECKING:
    from pktkit.cli.context import AppContext
    from pktkit.compare.lock import Lock
    from pktkit.compare.run import Watcher
    from pktkit.report.records import Summary
    from pktkit.report.rundir import RunDirectory


def run_watched(
    app: AppContext,
    lock: Lock,
    directory: RunDirectory,
    *,
    jobs: int | None,
    cache: Path | None,
    cells: int | None = None,
    processes: Processes = ALONE,
) -> Summary:
    """Run what a lock holds and the directory lacks; say how to go on with a run that stops.

    Arguments:
        cells: how many there are to run; None for all of the plan.
        processes: that train together; this is process 0.

    Raises:
        PktkitError: as `run_comparison`.
    """
    from pktkit.compare.run import run_comparison

    total = len(lock.cells)
    with _watched(app, total if cells is None else cells) as watcher:
        try:
            return run_comparison(
                lock.plan,
                app.registry,
                directory,
                jobs=jobs,
                watcher=watcher,
                cache=cache,
                lock=lock,
                processes=processes,
            )
        except (KeyboardInterrupt, PktkitError):
            _say_how_to_go_on(directory, total)
            raise


def run_part_watched(
    app: AppContext,
    lock: Lock,
    directory: RunDirectory,
    *,
    jobs: int | None,
    cache: Path | None,
    cells: int | None = None,
    processes: Processes = ALONE,
) -> int:
    """Run one part and say how to go on; without the others there is nothing to compare.

    Arguments as in `run_watched`.

    Returns:
        The command's exit code.

    Raises:
        PktkitError: as `run_comparison`.
    """
    from pktkit.compare.run import run_part

    total = len(lock.cells)
    with _watched(app, total if cells is None else cells) as watcher:
        try:
            results = run_part(
                lock,
                directory,
                jobs=jobs,
                watcher=watcher,
                cache=cache,
                processes=processes,
            )
        except (KeyboardInterrupt, PktkitError):
            _say_how_to_go_on(directory, total)
            raise
    failed = sum(result.failed for result in results)
    parts = lock.part.partition("/")[2]
    click.echo(
        f"part     {lock.part}: {total} of {len(lock.plan.cells())} cells in {directory.path}, "
        f"{failed} failed\n"
        f"next     when all {parts} parts have run: pktkit report RUN RUN …, their folders"
    )
    return EXIT_STRATEGY_FAILED if failed else EXIT_OK


@contextlib.contextmanager
def _watched(app: AppContext, cells: int) -> Iterator[Watcher]:
    """Show how far a run is."""
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.run import Watcher

    with CellDisplay(cells, quiet=app.verbosity < 0) as display:
        yield Watcher(display.step, display.finished, display.analysing)


def default_directory() -> Path:
    """Return a new folder's name under `runs`, by the time."""
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")


def _say_how_to_go_on(directory: RunDirectory, total: int) -> None:
    from pktkit.report.rundir import LOCK, resume_command

    if not (directory.path / LOCK).exists():
        return
    try:
        done = len({cell.key for cell in directory.cells() if not cell.failed})
    except PktkitError:
        return
    click.echo(f"stopped  {done} of {total} cells are in {directory.path}", err=True)
    click.echo(f"go on    {resume_command(directory.path)}", err=True)

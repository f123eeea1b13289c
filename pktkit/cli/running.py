"""Running a comparison under a progress display, for every command that does."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pktkit.errors import PktkitError

if TYPE_CHECKING:
    from pktkit.cli.context import AppContext
    from pktkit.compare.lock import Lock
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
) -> Summary:
    """Run what a lock holds and the directory lacks; say how to go on with a run that stops.

    Arguments:
        cells: how many there are to run; None for all of the plan.

    Raises:
        PktkitError: as `run_comparison`.
    """
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.run import Watcher, run_comparison

    total = len(lock.cells)
    with CellDisplay(total if cells is None else cells, quiet=app.verbosity < 0) as display:
        watcher = Watcher(display.step, display.finished, display.analysing)
        try:
            return run_comparison(
                lock.plan,
                app.registry,
                directory,
                jobs=jobs,
                watcher=watcher,
                cache=cache,
                lock=lock,
            )
        except (KeyboardInterrupt, PktkitError):
            _say_how_to_go_on(directory, total)
            raise


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

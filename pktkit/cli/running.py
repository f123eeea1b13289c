"""Running a comparison under a progress display, for every command that does."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED, PktkitError

if TYPE_CHECKING:
    from pktkit.cli.context import AppContext
    from pktkit.compare.lock import Lock
    from pktkit.compare.watcher import Watcher
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

    with _watched(app, lock, directory, cells) as watcher:
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

    with _watched(app, lock, directory, cells) as watcher:
        results = run_part(
            lock, directory, jobs=jobs, watcher=watcher, cache=cache, processes=processes
        )
    failed = sum(result.failed for result in results)
    parts = lock.part.partition("/")[2]
    click.echo(
        f"part     {lock.part}: {len(lock.cells)} of {len(lock.plan.cells())} cells in "
        f"{directory.path}, {failed} failed\n"
        f"next     when all {parts} parts have run: pktkit report RUN RUN …, their folders"
    )
    return EXIT_STRATEGY_FAILED if failed else EXIT_OK


@contextlib.contextmanager
def _watched(
    app: AppContext, lock: Lock, directory: RunDirectory, cells: int | None
) -> Iterator[Watcher]:
    """Show how far a run is, and say how to go on with one that stops."""
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.watcher import Watcher

    total = len(lock.cells)
    with CellDisplay(total if cells is None else cells, quiet=app.verbosity < 0) as display:
        try:
            yield Watcher(display.step, display.finished, display.analysing)
        except (KeyboardInterrupt, PktkitError):
            _say_how_to_go_on(directory, total)
            raise


def refuse_beside_resume(allowed: Collection[str], *, lock: str, beside: str) -> None:
    """Refuse options of the present command that say what a lock says.

    Arguments:
        allowed: parameters that may be given beside `--resume`.
        lock: the lock's file name.
        beside: those parameters in words.

    Raises:
        click.UsageError: another one was given.
    """
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in allowed
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"--resume takes what to run from {lock}; leave out {', '.join(given)}. "
            f"Beside it: {beside}, and permissions to run foreign code."
        )


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

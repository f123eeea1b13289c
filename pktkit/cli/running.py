"""How commands run cells under a progress display, and go on with a run or repeat it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
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

BESIDE_RESUME = ("--jobs", "--cache", "--format")
"""Options of every such command that may be given beside `--resume`."""

PERMISSIONS = ("--allow-code-execution", "--trust-remote-code")
"""Permissions to run foreign code, which no lock can give."""


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

    _prepare(jobs)
    with watched(app, *_shown(lock, directory, cells)) as watcher:
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

    _prepare(jobs)
    with watched(app, *_shown(lock, directory, cells)) as watcher:
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


def _prepare(jobs: int | None) -> None:
    """Import what cells need as workers do, where this process runs them itself."""
    if jobs == 0:
        import pktkit.compare.warm  # noqa: F401


@contextlib.contextmanager
def watched(app: AppContext, cells: int, stopped: Callable[[], None]) -> Iterator[Watcher]:
    """Show how far a run is, and say how to go on with one that stops.

    Arguments:
        cells: how many there are to run.
        stopped: says how to go on.
    """
    from pktkit.cli.progress import CellDisplay
    from pktkit.compare.watcher import Watcher

    try:
        with CellDisplay(cells, quiet=app.verbosity < 0) as display:
            yield Watcher(display.step, display.finished, display.analysing)
    except (KeyboardInterrupt, PktkitError):
        stopped()
        raise


def refuse_beside_resume(lock: str, *, further: tuple[str, ...] = ()) -> None:
    """Refuse options of the present command that say what a lock says.

    Arguments:
        lock: the lock's file name.
        further: options that this command takes beside `--resume` and others do not.

    Raises:
        click.UsageError: another one was given.
    """
    context = click.get_current_context()
    beside = (*further, *BESIDE_RESUME)
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if not {"--resume", *beside, *PERMISSIONS}.intersection(parameter.opts)
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(
            f"--resume takes what to run from {lock}; leave out {', '.join(given)}. "
            f"Beside it: {', '.join(beside)}, and permissions to run foreign code."
        )


@contextlib.contextmanager
def where_begun(app: AppContext, lock: Lock) -> Iterator[AppContext]:
    """Work where a run was started, with the plugins that it selected.

    Raises:
        UsageError: `--no-plugins` is given.
    """
    from pktkit.compare.resume import started_in

    app = app.with_selection(lock.plan.selection)
    with started_in(lock.directory):
        yield app


def as_begun(
    app: AppContext,
    lock: Lock,
    *,
    allow_code_execution: bool,
    trust_remote_code: bool,
    where: str,
) -> Lock:
    """Return a lock that may run again: what it read is unchanged, what it needs permitted.

    Arguments:
        app: as `where_begun` gives it.
        lock: of the run, pinned.
        allow_code_execution, trust_remote_code: permissions given to the present command.
        where: the run, for messages.

    Raises:
        UsageError: a model or task has changed or is gone, or a permission is missing.
    """
    from pktkit.compare.resume import permitted, require_unchanged

    require_unchanged(lock, app.registry, where=where)
    return permitted(
        lock,
        app.registry,
        run_programs=allow_code_execution,
        remote_code=trust_remote_code,
        where=where,
    )


def default_directory() -> Path:
    """Return a new folder's name under `runs`, by the time."""
    return Path("runs") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")


def _shown(
    lock: Lock, directory: RunDirectory, cells: int | None
) -> tuple[int, Callable[[], None]]:
    """Return what `watched` asks for, of a comparison."""
    total = len(lock.cells)
    stopped = functools.partial(_say_how_to_go_on, directory, total)
    return total if cells is None else cells, stopped


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

"""Going on with a run that stopped: is everything as it was?"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pktkit.compare.lock import Lock, read_lock
from pktkit.compare.plan import choose_task
from pktkit.errors import PktkitError, UsageError
from pktkit.permission import code_execution, require_permission
from pktkit.report.jsonfile import SCHEMA_VERSION
from pktkit.report.rundir import CELLS, LOCK, RESULTS, RunDirectory

if TYPE_CHECKING:
    from pktkit.outcomes import CellKey, CellResult
    from pktkit.registry import Registry


@attrs.frozen
class StoredRun:
    """A run directory as it is on disk.

    Arguments:
        directory: where it is.
        lock: what it was made of.
        cells: by key, the last result of each.
    """

    directory: RunDirectory
    lock: Lock
    cells: Mapping[CellKey, CellResult]

    @property
    def path(self) -> Path:
        """Return its folder."""
        return self.directory.path

    @property
    def missing(self) -> list[CellKey]:
        """Cells of the plan that have not run or have failed."""
        return [key for key in self.lock.cells if key not in self.cells or self.cells[key].failed]

    @property
    def results(self) -> list[CellResult]:
        """The cells that have run, in the order of the plan."""
        return [self.cells[key] for key in self.lock.cells if key in self.cells]


def stored_run(path: Path) -> StoredRun:
    """Read a run directory; nothing in it is changed.

    Arguments:
        path: the directory, or the lock in it.

    Raises:
        UsageError: there is no run, a file is missing or damaged, or a cell is not in the plan.
    """
    directory = RunDirectory.existing(path.parent if path.name == LOCK else path)
    if not (directory.path / LOCK).exists():
        raise UsageError(
            f"{directory.path} has no {LOCK}: the run stopped before its first cell, or was made "
            "by an older pktkit. Start it again in another folder."
        )
    lock = read_lock(directory.path / LOCK)
    _require_known_results(directory.path / RESULTS)
    return StoredRun(directory, lock, _known_cells(directory, lock.cells))


def require_unchanged(lock: Lock, registry: Registry, *, where: str) -> None:
    """Refuse to go on when a model or a task is not what it was when the run began.

    Arguments:
        lock: of the run.
        registry: of the plugins that the lock selects.
        where: the run, for messages.

    Raises:
        UsageError: a model or task is gone or has changed; the message says which file.
    """
    try:
        changes = lock.changes(registry)
    except PktkitError as error:
        raise type(error)(f"{where} needs what is gone: {error}") from error
    if changes:
        lines = "\n  ".join(changes)
        raise UsageError(
            f"models or data are not what they were when {where} began:\n  {lines}\n"
            "Scores from before and after would not belong together. Put them back as they were, "
            "or start a new run."
        )


def permitted(
    lock: Lock, registry: Registry, *, run_programs: bool, remote_code: bool, where: str
) -> Lock:
    """Return the lock with the permissions of this command, and refuse where it needs more.

    A lock may come from anybody: that somebody else permitted foreign code permits nothing here.

    Arguments:
        lock: of the run.
        registry: of the plugins that the lock selects.
        run_programs: whether programs that a model wrote may be run.
        remote_code: whether code that comes with a checkpoint may be run.
        where: the run, for messages.

    Raises:
        UsageError: a permission is missing, or a task is gone.
    """
    if lock.plan.pair.trust_remote_code and not remote_code:
        raise UsageError(
            f"{where} ran code that comes with its checkpoints. If you trust them, add "
            "--trust-remote-code."
        )
    with code_execution(run_programs):
        for name in lock.plan.tasks:
            require_permission(registry, choose_task(registry, name))
    return attrs.evolve(lock, plan=attrs.evolve(lock.plan, allow_code_execution=run_programs))


@contextlib.contextmanager
def started_in(directory: str) -> Iterator[None]:
    """Work where a run was started, since its relative paths begin there; stay where it is gone."""
    if directory and Path(directory).is_dir():
        with contextlib.chdir(directory):
            yield
    else:
        yield


def _require_known_results(file: Path) -> None:
    """Refuse results of another schema, which writing the report again would replace."""
    try:
        version = json.loads(file.read_text(encoding="utf-8"))["schema_version"]
    except (OSError, ValueError, TypeError, KeyError):
        return  # none yet, or a damaged file, which is written anew from the cells
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{file} has schema_version {version}, this pktkit writes {SCHEMA_VERSION}. Use the "
            "pktkit that wrote it. Nothing was changed."
        )


def _known_cells(
    directory: RunDirectory, planned: Collection[CellKey]
) -> dict[CellKey, CellResult]:
    """Return the last result of every cell; one that the plan does not have is refused."""
    cells = {}
    for number, cell in enumerate(directory.cells(), start=1):
        if cell.key not in planned:
            key = cell.key
            raise UsageError(
                f"{directory.path / CELLS}, line {number}: strategy '{key.strategy}', seed "
                f"{key.seed} on {key.place} is no cell of the plan in {LOCK}. "
                "Do the two files belong together? Nothing was changed."
            )
        cells[cell.key] = cell
    return cells

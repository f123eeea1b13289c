"""The folder of a run: what it was made of, each finished cell at once, the report at the end.

A run that stops early keeps every cell that had finished, in `cells.jsonl`; reopening the folder
and running the cells that are missing completes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import structlog

from pktkit.errors import DoesNotFitError, PktkitError, UsageError
from pktkit.outcomes import CellResult, ReportSection
from pktkit.report.curves import curve_sections
from pktkit.report.figures import figure_files
from pktkit.report.html import render_html
from pktkit.report.jsonfile import render_json
from pktkit.report.kept_sections import SECTIONS, render_sections
from pktkit.report.lines import cell_line, item_lines, read_cell
from pktkit.report.losses import mean_losses
from pktkit.report.markdown import render_markdown
from pktkit.report.records import Summary

CELLS = "cells.jsonl"
LOCK = "run.lock"
RESULTS = "results.json"
ITEMS = "items.jsonl"
REPORT = "report.md"
PAGE = "report.html"

log = structlog.get_logger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@attrs.frozen
class RunDirectory:
    """A folder that belongs to one run. Make it with `create`, `reopen` or `existing`."""

    path: Path

    @classmethod
    def create(cls, path: str | Path) -> RunDirectory:
        """Make a new run folder, and prove that it can be written.

        Raises:
            UsageError: there is something in it already, or it cannot be written.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            occupied = any(folder.iterdir())
        except OSError as error:
            raise _not_writable(folder, error) from error
        if occupied:
            held = (folder / LOCK).exists()
            resume = f"go on with the run in it: `{resume_command(folder)}`"
            raise UsageError(
                f"run folder {folder} is not empty. Give another folder"
                f"{f', or {resume}' if held else ''}."
            )
        run = cls(folder)
        run._prove_writable()
        return run

    @classmethod
    def existing(cls, path: str | Path) -> RunDirectory:
        """Open the folder of a run for reading; nothing in it is changed.

        Raises:
            UsageError: there is no run in it.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise UsageError(f"there is no run directory {run.path}.")
        if not (run.path / CELLS).is_file():
            raise UsageError(f"{run.path} holds no run: {CELLS} is missing.")
        return run

    @classmethod
    def reopen(cls, path: str | Path) -> RunDirectory:
        """Open the folder of a run that stopped, dropping a line that was half written.

        Raises:
            UsageError: there is no run in it, or it cannot be written.
        """
        run = cls(Path(path))
        file = run.path / CELLS
        if not file.is_file():
            raise UsageError(f"{run.path} holds no run to resume: {CELLS} is missing.")
        run._prove_writable()
        run.drop_half_line()
        return run

    @property
    def finished(self) -> bool:
        """Whether the report has been written."""
        return (self.path / RESULTS).exists()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from running cells into this folder.

        The claim is a lock on `cells.jsonl` that ends with this process, however it ends.

        Raises:
            UsageError: another process has the claim.
        """
        with (self.path / CELLS).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is running the cells of {self.path}; wait for it, or stop it."
                ) from error
            except OSError as error:
                # Some network file systems have no locks; a run is worth more than the check.
                log.warning("run folder cannot be locked", reason=error.strerror or str(error))
            yield

    def drop_half_line(self) -> None:
        """Remove a last line of `cells.jsonl` that was half written when the run stopped."""
        file = self.path / CELLS
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            log.warning("a half-written cell was dropped, it runs again", file=str(file))
            os.truncate(file, whole)

    def append_cell(self, cell: CellResult) -> None:
        """Add a finished cell to `cells.jsonl`; when this returns, it is on the disk.

        Raises:
            DoesNotFitError: the disk is full.
            UsageError: the file cannot be written for another reason. In both cases it is left
                as it was.
        """
        file, data = self.path / CELLS, cell_line(cell).encode()
        try:
            with file.open("ab", buffering=0) as stream:
                before = os.fstat(stream.fileno()).st_size
                try:
                    _write_whole(stream.fileno(), data)
                    os.fsync(stream.fileno())
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.truncate(file, before)
                    raise
        except OSError as error:
            raise self._unwritten(CELLS, error) from error

    def cells(self) -> list[CellResult]:
        """Return the cells on disk, in the order they finished.

        A last line without its end is not a finished cell and is left out.

        Raises:
            UsageError: a line cannot be read; the message gives its number.
        """
        file = self.path / CELLS
        if not file.exists():
            return []
        cells = []
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
            try:
                cells.append(read_cell(line))
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(
                    f"{file}, line {number}: not a finished cell "
                    f"({type(error).__name__}: {error}). "
                    "Nothing was changed; remove the line to have its cell run again."
                ) from error
        return cells

    def finish(
        self,
        summary: Summary,
        cells: Sequence[CellResult],
        sections: Sequence[ReportSection] = (),
    ) -> None:
        """Write the items, both reports with their figures and, last, the results.

        Each file appears whole or not at all.

        Raises:
            DoesNotFitError, UsageError: as `write`.
        """
        self.write(ITEMS, "".join(item_lines(cells)))
        pictured = [*curve_sections(summary), *sections]  # the page draws its own curves
        for figures in figure_files(pictured):
            for name, figure in figures:
                self.write(name, figure.png)
        self.write(REPORT, render_markdown(summary, pictured))
        self.write(PAGE, render_html(summary, sections, mean_losses(cells)))
        self.write(RESULTS, render_json(summary))

    def write_sections(self, sections: Sequence[ReportSection]) -> None:
        """Keep the sections of analyses, so that the report can be written again.

        Raises:
            DoesNotFitError, UsageError: as `write`.
        """
        for figures in figure_files(sections):
            for name, figure in figures:
                self.write(name, figure.png)
        self.write(SECTIONS, render_sections(sections))

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the run; readers see the old one or the whole new one.

        Raises:
            DoesNotFitError: the disk is full.
            UsageError: the file cannot be written for another reason.
        """
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path / name)
        except BaseException as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise self._unwritten(name, error) from error
            raise

    def _prove_writable(self) -> None:
        try:
            with (self.path / CELLS).open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise _not_writable(self.path, error) from error

    def _unwritten(self, name: str, error: OSError) -> PktkitError:
        """Build the error for a file that could not be written while the run goes on."""
        reason = error.strerror or str(error)
        advice = "Free some space" if error.errno in _FULL else "Make it writable"
        resume = f", then `{resume_command(self.path)}`" if (self.path / LOCK).exists() else ""
        return (DoesNotFitError if error.errno in _FULL else UsageError)(
            f"{self.path / name} cannot be written: {reason}. Every cell that finished before is "
            f"safe in {CELLS}. {advice}{resume}."
        )


def resume_command(folder: Path) -> str:
    """Return what to type to go on with a run."""
    return f"pktkit compare --resume {shlex.quote(str(folder))}"


def _write_whole(descriptor: int, data: bytes) -> None:
    """Write all of the data; one call may write a part."""
    while data:
        data = data[os.write(descriptor, data) :]


def _not_writable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"run folder {folder} cannot be written: {error.strerror or error}. Give another folder."
    )

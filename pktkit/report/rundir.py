"""The folder of a run: each finished cell at once, the report at the end.

A run that stops early keeps every cell that had finished, in `cells.jsonl`; reopening the folder
and running the cells that are missing completes it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from pktkit.errors import UsageError
from pktkit.outcomes import CellKey, CellResult, ItemScore, ReportSection, Spent
from pktkit.report.figures import figure_files
from pktkit.report.html import render_html
from pktkit.report.jsonfile import plain, render_json
from pktkit.report.losses import mean_losses
from pktkit.report.markdown import render_markdown
from pktkit.report.records import Summary
from pktkit.values import Injection

CELLS = "cells.jsonl"
RESULTS = "results.json"
ITEMS = "items.jsonl"
REPORT = "report.md"
PAGE = "report.html"


@attrs.frozen
class RunDirectory:
    """A folder that belongs to one run. Make it with `create` or `reopen`."""

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
            raise UsageError(
                f"run folder {folder} is not empty. Give another folder, or resume the run in it."
            )
        run = cls(folder)
        run._prove_writable()
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
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(file, whole)
        return run

    def append_cell(self, cell: CellResult) -> None:
        """Add a finished cell to `cells.jsonl`; when this returns, it is on the disk."""
        record = attrs.asdict(attrs.evolve(cell, trace=()))
        del record["trace"]
        line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
        with (self.path / CELLS).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            file.flush()
            os.fsync(file.fileno())

    def cells(self) -> list[CellResult]:
        """Return the cells on disk, in the order they finished.

        Raises:
            UsageError: a line cannot be read; the message gives its number.
        """
        file = self.path / CELLS
        if not file.exists():
            return []
        cells = []
        lines = file.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                cells.append(_cell(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(
                    f"{file}, line {number}: not a finished cell ({error})."
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
        """
        self.write(ITEMS, "".join(_item_lines(cells)))
        for figures in figure_files(sections):
            for name, figure in figures:
                self.write(name, figure.png)
        self.write(REPORT, render_markdown(summary, sections))
        self.write(PAGE, render_html(summary, sections, mean_losses(cells)))
        self.write(RESULTS, render_json(summary))

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the run; readers see the old one or the whole new one."""
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _prove_writable(self) -> None:
        try:
            with (self.path / CELLS).open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise _not_writable(self.path, error) from error


def _not_writable(folder: Path, error: OSError) -> UsageError:
    return UsageError(
        f"run folder {folder} cannot be written: {error.strerror or error}. Give another folder."
    )


def _item_lines(cells: Iterable[CellResult]) -> Iterator[str]:
    """Yield one line per strategy, seed, task and item; the last result of a cell counts."""
    for cell in {cell.key: cell for cell in cells}.values():
        for score in cell.scores:
            record = {
                "strategy": cell.key.strategy,
                "seed": cell.key.seed,
                "task": cell.key.task,
                "point": cell.key.point,
                "repeat": cell.key.repeat,
                "item": score.item,
                "score": plain(score.score),
                "prediction": score.prediction,
            }
            yield json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _cell(record: dict[str, Any]) -> CellResult:
    """Rebuild a cell from its line in `cells.jsonl`."""
    injection = record["injection"]
    return CellResult(
        key=CellKey(**record["key"]),
        scores=[_item_score(score) for score in record["scores"]],
        injection=None if injection is None else Injection(**injection),
        layer_map=record["layer_map"],
        seconds=record["seconds"],
        peak_bytes=record["peak_bytes"],
        error=record["error"],
        notes=record.get("notes", ()),
        spent=None if record.get("spent") is None else Spent(**record["spent"]),
    )


def _item_score(record: dict[str, Any]) -> ItemScore:
    """Rebuild a score; one that was not finite comes back as NaN, so that it is refused."""
    score = float("nan") if record["score"] is None else float(record["score"])
    return ItemScore(record["item"], score, record["prediction"])

"""Progress on stderr: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pktkit.outcomes import CellKey, CellResult


class CellDisplay:
    """Shows which cells run and how far they are. Use as a context manager."""

    def __init__(self, cells: int, *, quiet: bool) -> None:
        self._cells = cells
        self._quiet = quiet
        self._done = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._live = None if quiet or not sys.stderr.isatty() else _live_display(cells)
        self._tasks: dict[CellKey, int] = {}
        self._told: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, key: CellKey, step: int, steps: int, loss: float) -> None:
        """Show that a cell has taken a step."""
        if self._live is None:
            return
        with self._lock:
            if key not in self._tasks:
                self._tasks[key] = self._live.add_task(_label(key), total=steps, note="")
            self._live.update(
                self._tasks[key], completed=step, note=f"step {step}/{steps}  loss {loss:.3g}"
            )

    def finished(self, result: CellResult) -> None:
        """Show that a cell has ended."""
        with self._lock:
            self._done += 1
            outcome = f"failed: {result.error}" if result.failed else f"{100 * result.mean:.1f} %"
            line = f"[{self._done:>2}/{self._cells}] {_label(result.key)}  {outcome}"
            if self._live is not None:
                if result.key in self._tasks:
                    self._live.remove_task(self._tasks.pop(result.key))
                self._live.update(self._live.task_ids[0], completed=self._done)
                self._live.console.print(line, highlight=False, markup=False)
            elif not self._quiet:
                elapsed = time.monotonic() - self._start
                print(f"{line}  at {elapsed:.0f} s", file=sys.stderr, flush=True)
            for note in () if self._quiet else result.notes:
                if note not in self._told:
                    self._told.add(note)
                    self._print(f"note     {note}")
            for event in result.trace:
                self._print(str(event))

    def _print(self, line: str) -> None:
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def analysing(self, name: str, task: str) -> None:
        """Show that an analysis begins."""
        if self._live is not None:
            self._live.console.print(f"analyze  {task} {name}", highlight=False, markup=False)
        elif not self._quiet:
            print(f"analyze  {task} {name}", file=sys.stderr, flush=True)


def _label(key: CellKey) -> str:
    again = f" repeat {key.repeat}" if key.repeat else ""
    return f"{key.place} {key.strategy} seed {key.seed}{again}"


def _live_display(cells: int):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    progress.add_task("cells", total=cells, note="")
    return progress

"""Who is told how far a comparison is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pktkit.compare.cells import CellProgress
    from pktkit.outcomes import CellResult


@attrs.frozen(eq=False)
class Watcher:
    """Who is told what happens during a run.

    Arguments:
        step: called with (cell, step, steps, loss).
        finished: called with each cell's result.
        analysing: called with the name of each analysis and the task, when it starts.
    """

    step: CellProgress = lambda key, step, steps, loss: None
    finished: Callable[[CellResult], None] = lambda result: None
    analysing: Callable[[str, str], None] = lambda name, task: None

"""What an objective sees of one micro-batch, in one process or spread over several."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.activations.recording import Recording

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.distributed.processes import Processes
    from pktkit.encoding import Batch
    from pktkit.values import Interface


@attrs.frozen(eq=False, slots=False)
class StepView:
    """What an objective sees of one micro-batch.

    Where several processes train together, all attributes are about the rows of all of them, and
    logits and states are collected when they are first asked for: any loss is right. `own`,
    `mean` and `gather` save the collecting where a loss is made of less.

    Arguments:
        batch: the rows.
        logits: `[tokens, V]` at the predicting positions.
        recording: states of the recorded blocks at the same positions.
        share: how much of the run is done, 0 to 1.
    """

    batch: Batch
    logits: Tensor
    recording: Recording
    share: float

    @property
    def own(self) -> StepView:
        """The rows that this process runs the model on; all of them if it is alone."""
        return self

    def mean(self, term: Callable[[StepView], Tensor], counts: Sequence[int] = ()) -> Tensor:
        """Return a mean over positions, computed where the positions are.

        Arguments:
            term: returns the scalar mean over a view's positions; called with `own`.
            counts: over how many positions that mean goes in each process, none of them 0; empty
                for all predicting positions.
        """
        return term(self)

    def gather(self, values: Tensor, counts: Sequence[int] = (), dim: int = 0) -> Tensor:
        """Return values of own positions together with those of the other processes.

        Arguments:
            values: one per own position along `dim`.
            counts: how many there are in each process; empty for all predicting positions.
        """
        return values

    def counts(self, kept: Tensor) -> Sequence[int]:
        """Return how many of some positions are in each process.

        Arguments:
            kept: ascending int64 indices into the predicting positions of `batch`.
        """
        return (len(kept),)

    def within_own(self, kept: Tensor) -> Tensor:
        """Return those of some positions that are own, as indices into the positions of `own`."""
        return kept


class SharedView(StepView):
    """A micro-batch whose rows are spread over processes, consecutive rows to each."""

    def __init__(
        self, own: StepView, batch: Batch, processes: Processes, tokens: Sequence[int]
    ) -> None:
        """Put the views of all processes together.

        Arguments:
            own: of this process's rows.
            batch: all rows.
            tokens: predicting positions in each process.
        """
        vars(self).update(
            batch=batch, share=own.share, _own=own, _processes=processes, _tokens=tuple(tokens)
        )

    _own: StepView
    _processes: Processes
    _tokens: tuple[int, ...]

    @property
    def own(self) -> StepView:
        """The rows that this process runs the model on."""
        return self._own

    @functools.cached_property
    def logits(self) -> Tensor:
        """Logits of all rows, `[tokens, V]`, in every process."""
        return self.gather(self._own.logits)

    @functools.cached_property
    def recording(self) -> Recording:
        """States of all rows, collected when they are read."""
        return SharedRecording(self)

    def mean(self, term: Callable[[StepView], Tensor], counts: Sequence[int] = ()) -> Tensor:
        """Return a mean over the positions of all processes."""
        counts = counts or self._tokens
        share = counts[self._processes.rank] / sum(counts)
        return self._processes.total(term(self._own) * share)

    def gather(self, values: Tensor, counts: Sequence[int] = (), dim: int = 0) -> Tensor:
        """Return the values of all positions, in the order of `batch`."""
        return self._processes.gather(values, counts or self._tokens, dim)

    def counts(self, kept: Tensor) -> Sequence[int]:
        """Return how many of some positions are in each process."""
        inside = [self._between(kept, rank) for rank in range(self._processes.count)]
        return [int(mask.sum()) for mask in inside]

    def within_own(self, kept: Tensor) -> Tensor:
        """Return own positions as indices into the positions of `own`."""
        rank = self._processes.rank
        return kept[self._between(kept, rank)] - sum(self._tokens[:rank])

    def _between(self, kept: Tensor, rank: int) -> Tensor:
        start = sum(self._tokens[:rank])
        return (kept >= start) & (kept < start + self._tokens[rank])


class SharedRecording(Recording):
    """The residual stream of all processes' rows, read as that of one."""

    def __init__(self, view: SharedView) -> None:
        """Read through a view."""
        super().__init__(view.batch.predicting)
        self._view = view

    def before(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` before a block."""
        return self._view.gather(self._view.own.recording.before(block))

    def after(self, block: int) -> Tensor:
        """Return the residual stream `[tokens, D]` after a block."""
        return self._view.gather(self._view.own.recording.after(block))

    def states(self, block: int, interface: Interface, kept: Tensor | None = None) -> Tensor:
        """Return `[tokens, D]` of a block at an interface."""
        states = self._view.gather(self._view.own.recording.states(block, interface))
        return states if kept is None else states.index_select(0, kept)

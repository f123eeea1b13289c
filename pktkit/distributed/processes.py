"""The processes of one launch that train one target together, and what they exchange.

Every process computes the same loss from all rows of a micro-batch, but runs the model on its
share of them only; gradients are averaged before a step. The result is the gradient that one
process would have computed, whatever the loss does with the rows, see
`pktkit.distributed.exchange`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pktkit.errors import LaunchError, PktkitError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pktkit.budget import Budget

T = TypeVar("T")

PATIENCE = timedelta(seconds=60)
"""How long a process that failed waits to hear that the others failed as well."""


@attrs.frozen
class Sharding:
    """FSDP: how a target's weights are spread while it trains, see `pktkit.distributed.sharding`.

    Arguments:
        reshard_after_forward: drop a block's whole weights between forward and backward pass.
        offload: keep shards and optimiser in host memory.
    """

    reshard_after_forward: bool = True
    offload: bool = False


@attrs.frozen
class Zero:
    """DeepSpeed's ZeRO: what of a target's training is spread, see `pktkit.distributed.zero`.

    Arguments:
        section: `zero_optimization` of DeepSpeed's configuration; its `stage` is 1, 2 or 3.
    """

    section: Mapping[str, Any]


@attrs.frozen
class Processes:
    """This process among those that train one target together; alone by default.

    Arguments:
        rank: 0-based number of this process; 0 writes and prints.
        count: how many there are.
        local_rank: 0-based number among the processes of this machine.
        sharding: how the target's weights are spread while it trains; None keeps them whole in
            every process.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    sharding: Sharding | Zero | None = None

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def split(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Cut items into one consecutive part per process, as even as can be."""
        edges = [rank * len(items) // self.count for rank in range(self.count + 1)]
        return [items[before:after] for before, after in itertools.pairwise(edges)]

    def require_rows(self, budget: Budget) -> None:
        """Refuse micro-batches of fewer rows than there are processes.

        Raises:
            UsageError: some process would have nothing to do.
        """
        smallest = budget.batch_size // min(budget.accumulate, budget.batch_size)
        if smallest < self.count:
            raise UsageError(
                f"budget.batch_size {budget.batch_size} in {budget.accumulate} parts "
                f"(budget.accumulate) gives parts of {smallest} rows, fewer than the "
                f"{self.count} processes. Set budget.batch_size to at least "
                f"{self.count * budget.accumulate}, lower budget.accumulate, or launch fewer "
                "processes."
            )

    def gather(self, values: Tensor, counts: Sequence[int], dim: int = 0) -> Tensor:
        """Return all processes' values, one after another along `dim`; differentiable.

        Arguments:
            values: of this process, `counts[rank]` long along `dim`, elsewhere of equal shape.
            counts: how long each process's values are along `dim`.
        """
        if not self.several:
            return values
        from pktkit.distributed.exchange import Gather

        gathered: Tensor = Gather.apply(values.movedim(dim, 0), tuple(counts), self.rank)
        return gathered.movedim(0, dim)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all processes; differentiable."""
        if not self.several:
            return value
        from pktkit.distributed.exchange import Total

        summed: Tensor = Total.apply(value, self.count)
        return summed

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes."""
        if self.several:
            from pktkit.distributed.exchange import average_gradients

            average_gradients(parameters, self.count)

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of process 0."""
        if self.several:
            from pktkit.distributed.exchange import copy_from_main

            copy_from_main(tensors)

    def from_main(self, value: T) -> T:
        """Return process 0's value, which must be picklable, to all."""
        if not self.several:
            return value
        import torch

        box: list[Any] = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        received: T = box[0]
        return received

    def everyones(self, value: T) -> list[T]:
        """Return the value of every process, which must be picklable, by rank."""
        if not self.several:
            return [value]
        import torch

        boxes: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(boxes, value)
        return boxes

    def require_same(self, what: str, value: str) -> None:
        """Check that all processes came to the same result.

        Raises:
            LaunchError: one did not; all processes raise it.
        """
        values = self.everyones(value)
        different = [rank for rank, other in enumerate(values) if other != values[0]]
        if different:
            raise LaunchError(
                f"{what} differs between processes: '{values[0]}' in process 0, "
                f"'{values[different[0]]}' in process {different[0]}. Give all of them one "
                "--cache directory, so that they read the same states."
            )

    def on_main(self, action: Callable[[], object]) -> None:
        """Let process 0 do something; an expected error of it is raised by all.

        Raises:
            PktkitError: what the action raised.
        """
        failure: PktkitError | None = None
        if self.main:
            try:
                action()
            except PktkitError as error:
                failure = error
        failure = self.from_main(failure)
        if failure is not None:
            raise failure

    def require_all_failed(self, where: str, error: BaseException) -> None:
        """Return if every process fails here; call it where an error is about to be survived.

        A process that fails alone leaves the others waiting for its part of an exchange.

        Arguments:
            where: names the place, different each time.
            error: what this process raises.

        Raises:
            LaunchError: another process did not fail within `PATIENCE`.
        """
        if not self.several:
            return
        from torch.distributed import distributed_c10d

        store = distributed_c10d._get_default_store()
        keys = [f"pktkit/failed/{where}/{rank}" for rank in range(self.count)]
        store.set(keys[self.rank], "1")
        try:
            store.wait(keys, PATIENCE)
        except RuntimeError:
            raise LaunchError(
                f"process {self.rank} of {self.count} failed and not all others did, so the run "
                f"cannot go on; finished cells are kept. {error}"
            ) from error


ALONE = Processes()


def launched() -> int:
    """Return how many processes a launcher started together with this one, 1 without any."""
    text = os.environ.get("WORLD_SIZE", "1")
    return int(text) if text.isdigit() else 1

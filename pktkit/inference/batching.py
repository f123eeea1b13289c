"""Batches of rows without gradients: as large as memory allows, smaller when it runs out."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import structlog

from pktkit.errors import DoesNotFitError

if TYPE_CHECKING:
    from torch import nn

    from pktkit.pair import LoadedModel

log = structlog.get_logger(__name__)

BATCH_TOKENS = 8192
"""Most tokens of a batch on the CPU, padding and room for new tokens included: larger batches
are no faster there."""

ACCELERATOR_TOKENS = 1 << 17
"""Most tokens of a batch elsewhere."""

BATCH_ROWS = 512
"""Sequences of a batch, however short they are."""

MEMORY_SHARE = 0.5
"""Share of the free memory that a batch may be estimated to need."""

_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
"""What a `RuntimeError` says when an allocation failed on the CPU, or inside a library."""


@attrs.frozen
class Load:
    """What one unit of work puts into a batch.

    Arguments:
        length: tokens of its longest row, room for new tokens included.
        rows: sequences, at least 1.
        predictions: positions of each row whose logits are computed at the same time.
    """

    length: int
    rows: int = 1
    predictions: int = 1


def run_in_batches(
    model: LoadedModel,
    loads: Sequence[Load],
    run: Callable[[list[int]], None],
    *,
    batch_tokens: int | None = None,
) -> None:
    """Run all units of work, longest first, in batches that fit the memory.

    A batch is as large as half of the free memory is estimated to hold. When memory runs out all
    the same, the batch is halved and tried again, and later ones are no larger.

    Arguments:
        model: what the batches are for.
        loads: one per unit.
        run: is called with the indices of the units of a batch; the first is the longest. It must
            have no effect when it raises.
        batch_tokens: tokens per batch, padding included; None for what suits the device.

    Raises:
        DoesNotFitError: memory runs out for a single unit.
    """
    cost = Cost.of(model)
    order = sorted(range(len(loads)), key=lambda index: -loads[index].length)
    most = batch_tokens or default_tokens(model)
    start = 0
    while start < len(order):
        limit = most if batch_tokens else min(most, cost.fitting_tokens(loads[order[start]]))
        chosen = _next_batch(order[start:], loads, limit)
        if _succeeds(run, chosen):
            start += len(chosen)
            continue
        longest, rows = loads[chosen[0]].length, sum(loads[index].rows for index in chosen)
        release_memory(model.model)
        if len(chosen) == 1:
            raise DoesNotFitError(
                f"{model.name}: memory runs out for {rows} row(s) of {longest} tokens at a time. "
                "Shorten the prompts, use a smaller model or --dtype bfloat16, or --device cpu."
            )
        most = longest * rows // 2
        log.warning("out of memory, halving the batch", rows=rows, tokens=longest * rows)


def default_tokens(model: LoadedModel) -> int:
    """Return the most tokens that a batch gets on the model's device."""
    device = next(model.model.parameters()).device
    return BATCH_TOKENS if device.type == "cpu" else ACCELERATOR_TOKENS


@attrs.frozen
class Cost:
    """Estimated bytes of a batch, and what is free for it.

    Arguments:
        kept: bytes per token that stay for the whole batch: keys and values of all blocks.
        passing: bytes per token of one block's activations.
        scores: bytes per pair of tokens of one block's attention.
        logits: bytes per predicted position: logits, and their logarithms in float32.
        free: bytes free on the model's device; None where it does not say.
    """

    kept: int
    passing: int
    scores: int
    logits: int
    free: int | None

    @classmethod
    def of(cls, model: LoadedModel) -> Cost:
        """Read the sizes from a model's anatomy, and ask its device."""
        anatomy, weight = model.anatomy, next(model.model.parameters())
        size = weight.element_size()
        keys = 2 * anatomy.n_kv_heads * anatomy.head_dim * size
        heads = anatomy.n_heads * anatomy.head_dim
        return cls(
            kept=anatomy.n_blocks * keys,
            passing=size * (4 * anatomy.width + 3 * anatomy.ffn_width + 2 * heads) + keys,
            scores=2 * anatomy.n_heads * max(size, 4),
            logits=anatomy.vocab_rows * (size + 8),
            free=free_bytes(weight.device),
        )

    def row_bytes(self, load: Load) -> int:
        """Return the estimated bytes of one row."""
        per_token = self.kept + self.passing + self.scores * load.length
        return load.length * per_token + load.predictions * self.logits

    def fitting_tokens(self, load: Load) -> int:
        """Return how many tokens of such rows fit; at least one unit's, whatever is free."""
        least = load.length * load.rows
        if self.free is None:
            return max(least, ACCELERATOR_TOKENS)
        rows = int(self.free * MEMORY_SHARE) // max(1, self.row_bytes(load))
        return max(least, rows * load.length)


def free_bytes(device: Any) -> int | None:
    """Return the free memory of a torch device; None where it does not say."""
    import psutil
    import torch

    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def release_memory(model: nn.Module) -> None:
    """Give unused memory back, so that a smaller batch finds it in one piece."""
    import torch

    gc.collect()
    if next(model.parameters()).device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and training mode back on if it was on."""
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _next_batch(order: Sequence[int], loads: Sequence[Load], limit: int) -> list[int]:
    """Take units while the rows, padded to the first one's length, stay within the limit."""
    longest = max(1, loads[order[0]].length)
    allowed = min(BATCH_ROWS, limit // longest)
    chosen, rows = [order[0]], loads[order[0]].rows
    for index in order[1:]:
        rows += loads[index].rows
        if rows > allowed:
            break
        chosen.append(index)
    return chosen


def _succeeds(run: Callable[[list[int]], None], chosen: list[int]) -> bool:
    """Run a batch; False when memory ran out. The error, which holds tensors, is let go."""
    try:
        run(chosen)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True

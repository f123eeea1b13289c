"""Peak memory by formula, from shapes, budget and lengths of rows.

Counted are: the process itself; both models; what training holds (the journal's copy of what it
changes, gradients, AdamW's two moments, activations, logits); readings of the source; and what
scoring holds (keys and values, one block's activations). A process holds the models and the
largest of what its phases add. `benchmarks/memory_estimate.py` checks the sum against measured
peaks.

Activations kept for the backward pass, in numbers per token and block: with D the width, F the
feed-forward width and H the width of all heads, `6 D` (inputs of both norms, what they normalise,
what they give), `5 H` (queries, keys and values spread over all heads, attention's output twice)
and `4 F`; in half precision the norms compute in float32, `4 D` more numbers of four bytes. An
adapter adds what the modules that carry it give. Attention scores are not kept (fused kernels).
Checkpointing keeps `D` per block, and one block whole (`RECOMPUTED` on the CPU).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pktkit.inference.batching import ACCELERATOR_TOKENS, BATCH_ROWS, BATCH_TOKENS, Cost

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.encoding import EncodedItem
    from pktkit.outlook.workload import Workload
    from pktkit.pair import LoadedModel
    from pktkit.settings import ProbeSettings
    from pktkit.touched import Touched

PROCESS = 420 << 20
"""Bytes of a Python process with torch, transformers and peft imported, on Linux (measured)."""

CONTEXT = 500 << 20
"""Bytes that CUDA takes on a GPU for itself."""

CHUNK = 1 << 26
"""Bytes of a parameter that are hashed at a time."""

RECOMPUTED = 4
"""Blocks whose recomputed activations are resident at once with checkpointing on the CPU: one is
in use, and the C allocator keeps the memory of others for itself (measured)."""

_QUANTS = {"none": None, "8bit": 1.05, "4bit": 0.55}
"""Bytes per weight of a packed block, scales included."""

_FLOAT = 4

Parts = dict[str, int]


def weight_bytes(handle: LoadedModel, quant: str = "none") -> int:
    """Return the bytes of a model's weights; packed ones are those of the blocks."""
    packed = _QUANTS[quant]
    total = sum(p.numel() * p.element_size() for p in handle.model.parameters())
    if packed is None:
        return total
    names = {n for b in range(handle.anatomy.n_blocks) for n in handle.anatomy.block_parameters(b)}
    inside = [handle.model.get_parameter(name) for name in names]
    saved = sum(p.numel() * (p.element_size() - packed) for p in inside if p.dim() > 1)
    return int(total - saved)


def training_bytes(
    target: LoadedModel,
    touched: Touched,
    budget: Budget,
    rows: Sequence[EncodedItem],
    *,
    kl: bool,
    device: str = "cpu",
) -> Parts:
    """Return what training holds beside the models.

    Arguments:
        touched: what moves.
        rows: the largest micro-batch.
        kl: whether the source's logits are read.
    """
    size = element_size(target)
    if not touched.trained:
        return {"journal": weight_bytes(target)}
    held = touched.parameters * size
    supervised = sum(row.supervised_count for row in rows)
    tokens = len(rows) * max((len(row.input_ids) for row in rows), default=0)
    logits = supervised * target.anatomy.vocab_rows * (size + 3 * _FLOAT) * (2 if kl else 1)
    return {
        "journal": 0 if touched.adapter_used else held,
        "adapter": held if touched.adapter_used else 0,
        "gradients": held,
        "AdamW": 2 * held,
        "activations": activation_bytes(
            target,
            tokens,
            beside=touched.outputs,
            checkpointing=budget.checkpointing,
            device=device,
        ),
        "logits": logits,
    }


def activation_bytes(
    target: LoadedModel,
    tokens: int,
    *,
    beside: int = 0,
    checkpointing: bool,
    device: str = "cpu",
) -> int:
    """Return what a forward pass keeps for the backward pass, and the latter's own.

    Arguments:
        beside: numbers per token and block that an adapter adds.
    """
    anatomy, size = target.anatomy, element_size(target)
    width, ffn = anatomy.width, anatomy.ffn_width
    heads = anatomy.n_heads * anatomy.head_dim
    block = size * (6 * width + 5 * heads + 4 * ffn + beside)
    if size < _FLOAT:
        block += 4 * width * _FLOAT
    passing = 3 * size * max(ffn, width)
    if checkpointing:
        whole = min(anatomy.n_blocks, RECOMPUTED if device.startswith("cpu") else 1)
        return tokens * (anatomy.n_blocks * width * size + whole * block + passing)
    return tokens * (anatomy.n_blocks * block + passing)


def scoring_bytes(model: LoadedModel, workload: Workload, *, accelerator: bool) -> int:
    """Return what scoring a task with a model holds beside it."""
    cost = Cost.of(model)
    length = max(workload.scored, default=0) + workload.task.max_new_tokens
    most = ACCELERATOR_TOKENS if accelerator else BATCH_TOKENS
    rows = max(1, min(len(workload.scored), BATCH_ROWS, most // max(1, length)))
    return rows * (length * (cost.kept + cost.passing) + cost.logits)


def reading_bytes(
    model: LoadedModel, workload: Workload, settings: ProbeSettings, *, states: bool, kl: bool
) -> Parts:
    """Return the stored readings of the train split, and what taking them holds.

    Readings above `settings.max_bytes` are not stored.
    """
    if not (states or kl):
        return {}
    anatomy = model.anatomy
    tokens = sum(item.supervised_count for item in workload.train)
    size = 2 if settings.state_dtype == "bfloat16" else element_size(model)
    stored = tokens * anatomy.width * (anatomy.n_blocks + 1) * size
    logits = tokens * anatomy.vocab_rows * element_size(model) if kl else 0
    kept = sum(part for part in (stored, logits) if part <= settings.max_bytes)
    rows = workload.train[: settings.batch_size]
    taking = len(rows) * max((len(r.input_ids) for r in rows), default=0) * Cost.of(model).passing
    return {"readings": kept, "taking readings": taking}


def element_size(model: LoadedModel) -> int:
    """Return the bytes of one weight."""
    return int(model.anatomy.embedding.weight.element_size())


def largest_phase(phases: Sequence[Mapping[str, int]]) -> Parts:
    """Return the phase that holds most."""
    largest: Mapping[str, int] = max(phases, key=lambda parts: sum(parts.values()), default={})
    return dict(largest)

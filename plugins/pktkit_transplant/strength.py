"""How strongly to blend changes in: the value with the lowest loss on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch.func import functional_call
from torch.nn import functional

from pktkit.activations.recording import forward, record
from pktkit.encoding import collate, padding_id
from pktkit.errors import NonFiniteError

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData

SPLIT = "dev"
GRID = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


@attrs.frozen
class Tried:
    """What a search for a strength found.

    Arguments:
        strength: the best value; the smaller of equals.
        losses: mean answer cross-entropy per token, in nats, by strength.
        rows: rows of the `dev` split it was measured on.
    """

    strength: float
    losses: Mapping[float, float]
    rows: int


def blended(parameter: Tensor, delta: Tensor, strength: float) -> Tensor:
    """Return `W + s Δ` in the parameter's type, added in fp32 or better."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    sum_ = parameter.detach().to(dtype) + strength * delta.to(parameter.device, dtype)
    return sum_.to(parameter.dtype)


def search(
    target: LoadedModel, deltas: Mapping[str, Tensor], data: TransferData, rows: int
) -> Tried:
    """Try every strength of `GRID` on rows spread evenly over the `dev` split.

    The target's parameters are not written to: the changed ones are swapped in for each call.

    Raises:
        NonFiniteError: a loss is not finite; names the strength.
    """
    split = data.probe.encoded(SPLIT)
    chosen = spread(len(split.items), rows)
    losses: dict[float, float] = {}
    for index, strength in enumerate(GRID):
        losses[strength] = answer_loss(target, deltas, strength, data, chosen)
        data.progress(index + 1, len(GRID), losses[strength])
        if not torch.isfinite(torch.tensor(losses[strength])):
            raise NonFiniteError(
                f"the answer loss on split '{SPLIT}' is {losses[strength]:g} at strength "
                f"{strength:g}. Try --dtype float32, or set --set injector.strength to a number."
            )
    return Tried(min(losses, key=lambda s: (losses[s], s)), losses, len(chosen))


def answer_loss(
    target: LoadedModel,
    deltas: Mapping[str, Tensor],
    strength: float,
    data: TransferData,
    rows: Sequence[int],
) -> float:
    """Return the mean cross-entropy of answer tokens, in nats, with changes blended in."""
    split, size = data.probe.encoded(SPLIT), data.probe.settings.batch_size
    parameters = {
        name: blended(target.model.get_parameter(name), delta, strength)
        for name, delta in deltas.items()
        if strength
    }

    def called(**inputs: Any) -> Any:
        return functional_call(target.model, parameters, (), inputs)

    device, pad = target.anatomy.head_weight.device, padding_id(target.tokenizer)
    total, tokens = 0.0, 0
    for start in range(0, len(rows), size):
        batch = collate(split, rows[start : start + size], pad_id=pad, device=device)
        with torch.no_grad(), record(target.anatomy, (), batch):
            logits: Tensor = forward(called, batch)  # type: ignore[arg-type]
        total += float(functional.cross_entropy(logits.float(), batch.gold, reduction="sum"))
        tokens += len(batch.gold)
    return total / tokens


def spread(available: int, wanted: int) -> list[int]:
    """Return at most `wanted` rows, evenly spread, so that a sorted split is seen whole."""
    count = min(available, wanted)
    return [index * available // count for index in range(count)]

"""The two passes over a split: forward (states, logits) and backward (attribution, sensitivity)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from pktkit.encoding import EncodedSplit, collate, padding_id
from pktkit.errors import NonFiniteError
from pktkit.probe.readers import forward_states, visiting_order
from pktkit.recording import forward, hidden_state, record

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel
    from pktkit.settings import ProbeSettings


def forward_pass(
    model: LoadedModel, split: EncodedSplit, settings: ProbeSettings, *, logits: bool
) -> Iterator[dict[str, Tensor]]:
    """Read the residual stream of all blocks, and optionally logits, at predicting positions.

    Rows are visited by length (`readers.visiting_order`) so that little is padded, and their
    tokens stored in that order.

    Yields:
        Shards of consecutive tokens: `block.-1` (before the first block) to `block.<L-1>`, each
        `[tokens, D]` in the dtype of `settings`, and `logits` `[tokens, V]` in the model's when
        asked for; on the CPU.
    """
    blocks = range(-1, model.anatomy.n_blocks)
    kept = torch.bfloat16 if settings.state_dtype == "bfloat16" else None
    pending: dict[str, list[Tensor]] = {}
    size = 0
    order = visiting_order(split)
    for start in range(0, len(order), settings.batch_size):
        rows = order[start : start + settings.batch_size]
        states, output = forward_states(model, split, rows, blocks, logits=logits)
        named = {name: state.to("cpu", kept) for name, state in states.items()}
        if logits:
            named["logits"] = output.cpu()
        for name, tensor in named.items():
            pending.setdefault(name, []).append(tensor)
            size += tensor.numel() * tensor.element_size()
        if size >= settings.shard_bytes:
            yield {name: torch.cat(parts) for name, parts in pending.items()}
            pending, size = {}, 0
    if pending:
        yield {name: torch.cat(parts) for name, parts in pending.items()}


def backward_pass(model: LoadedModel, split: EncodedSplit) -> dict[str, Tensor]:
    """Differentiate the mean answer cross-entropy of each item on its own.

    Returns:
        `attribution`: `[items, L]`, gradient × activation of each block's output summed over
            tokens and channels (Layer Gradient × Activation).
        `fisher`: `[items, L]`, fp64, the squares of the same products, summed: the diagonal
            empirical Fisher information of gates at 1 on the entries of each block's output.
        `loss`: `[items]`.
        `sensitivity.<parameter>`: `S(w) = Σ_j |w · ∂L_j/∂w|` over items j, fp32 on the CPU
            (arXiv 2310.11451, section 3).

    Raises:
        NonFiniteError: an item's loss or gradient is not finite; names the item.
    """
    anatomy = model.anatomy
    device = anatomy.embedding.weight.device
    parameters = dict(model.model.named_parameters())
    sensitivity = {n: torch.zeros(p.shape, dtype=torch.float32) for n, p in parameters.items()}
    attributions, information, losses = [], [], []
    with _differentiable(model):
        for row in range(len(split.items)):
            batch = collate(split, [row], pad_id=padding_id(model.tokenizer), device=device)
            with _retained_outputs(model) as outputs, record(anatomy, (), batch):
                logits = forward(model.model, batch)
            loss = torch.nn.functional.cross_entropy(logits.float(), batch.gold)
            model.model.zero_grad(set_to_none=True)
            loss.backward()
            scores = [(o.grad.float() * o.detach().float()).sum() for o in outputs]
            attributions.append(torch.stack(scores).cpu())
            squares = [(o.grad.double() * o.detach().double()).square().sum() for o in outputs]
            information.append(torch.stack(squares).cpu())
            losses.append(loss.detach().float().cpu())
            if not bool(attributions[-1].isfinite().all() and losses[-1].isfinite()):
                raise NonFiniteError(
                    f"the source's loss or gradient is not finite on item {batch.ids[0]} of "
                    f"split '{split.name}'. Try --dtype float32."
                )
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    product = parameter.detach().float() * parameter.grad.float()
                    sensitivity[name] += product.abs_().cpu()
    tensors = {f"sensitivity.{name}": value for name, value in sensitivity.items()}
    readings = {"attribution": attributions, "fisher": information, "loss": losses}
    return {name: torch.stack(values) for name, values in readings.items()} | tensors


@contextlib.contextmanager
def _differentiable(model: LoadedModel) -> Iterator[None]:
    """Let gradients reach all parameters inside the context; flags and grads as before after."""
    flags = {name: p.requires_grad for name, p in model.model.named_parameters()}
    try:
        model.model.requires_grad_(True)
        yield
    finally:
        for name, parameter in model.model.named_parameters():
            parameter.requires_grad_(flags[name])
            parameter.grad = None


@contextlib.contextmanager
def _retained_outputs(model: LoadedModel) -> Iterator[list[Any]]:
    """Collect the blocks' output tensors, in order, keeping their gradients."""
    outputs: list[Any] = []

    def hook(module: Any, args: Any, output: Any) -> None:
        state = hidden_state(output)
        state.retain_grad()
        outputs.append(state)

    handles = [block.register_forward_hook(hook) for block in model.anatomy.blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

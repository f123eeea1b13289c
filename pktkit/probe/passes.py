"""The passes over a split: states and logits forward, attribution and sensitivity backward."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from pktkit.activations.recording import forward, hidden_state, record
from pktkit.encoding import EncodedSplit, collate, padding_id
from pktkit.errors import NonFiniteError
from pktkit.probe.readers import forward_states, visiting_order

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import Batch
    from pktkit.pair import LoadedModel
    from pktkit.settings import ProbeSettings


def forward_pass(
    model: LoadedModel,
    split: EncodedSplit,
    settings: ProbeSettings,
    *,
    blocks: Sequence[int],
    logits: bool,
) -> Iterator[dict[str, Tensor]]:
    """Read the residual stream after blocks, and optionally logits, at predicting positions.

    Rows are visited by length (`readers.visiting_order`) so that little is padded, and their
    tokens stored in that order.

    Yields:
        Shards of consecutive tokens: `block.<i>` of each of `blocks` (-1 is the stream before
        the first block), `[tokens, D]` in the dtype of `settings`, and `logits` `[tokens, V]` in
        the model's when asked for; on the CPU.
    """
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


def attribution_pass(model: LoadedModel, split: EncodedSplit) -> dict[str, Tensor]:
    """Differentiate each item's mean answer cross-entropy by the blocks' outputs.

    No parameter gets a gradient, so this costs activations of one item and no more.

    Returns:
        `attribution`: `[items, L]`, gradient × activation of each block's output summed over
            tokens and channels (Layer Gradient × Activation).
        `fisher`: `[items, L]`, fp64, the squares of the same products, summed: the diagonal
            empirical Fisher information of gates at 1 on the entries of each block's output.
        `loss`: `[items]`.

    Raises:
        NonFiniteError: an item's loss or gradient is not finite; names the item.
    """
    attributions, information, losses = [], [], []
    with _parameter_gradients(model, wanted=False):
        for row in range(len(split.items)):
            with _block_outputs(model) as outputs:
                batch, loss = _item_loss(model, split, row)
            gradients = torch.autograd.grad(loss, outputs)
            pairs = [(g, o.detach()) for g, o in zip(gradients, outputs, strict=True)]
            scores = [(g.float() * o.float()).sum() for g, o in pairs]
            attributions.append(torch.stack(scores).cpu())
            squares = [(_double(g) * _double(o)).square().sum() for g, o in pairs]
            information.append(torch.stack(squares).cpu())
            losses.append(loss.detach().float().cpu())
            if not bool(attributions[-1].isfinite().all()):
                raise _not_finite("gradient", batch.ids[0], split)
    readings = {"attribution": attributions, "fisher": information, "loss": losses}
    return {name: torch.stack(values) for name, values in readings.items()}


def _double(values: Tensor) -> Tensor:
    """Return values in fp64, on the CPU where the accelerator has no such numbers."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def sensitivity_shapes(model: LoadedModel) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter; tied ones appear once."""
    return {name: tuple(p.shape) for name, p in model.model.named_parameters()}


def sensitivity_pass(model: LoadedModel, split: EncodedSplit, totals: Mapping[str, Tensor]) -> None:
    """Add `S(w) = Σ_j |w · ∂L_j/∂w|` over items j to `totals` (arXiv 2310.11451, section 3).

    Each parameter's gradient is added and freed the moment it is complete, so that the whole
    gradient of the model never exists: the pass needs the weights, the totals, and the
    activations and few gradients of one item.

    Arguments:
        totals: fp32 on the CPU, one per name of `sensitivity_shapes`; may be mapped from disk.

    Raises:
        NonFiniteError: an item's loss or gradient is not finite; names item and parameter.
    """
    not_finite: list[str] = []

    def add(name: str, parameter: Any) -> None:
        product = (parameter.grad.float() * parameter.detach()).abs_().cpu()
        parameter.grad = None
        if product.numel() and not bool(product.max().isfinite()):
            not_finite.append(name)
        totals[name].add_(product)

    with _parameter_gradients(model, wanted=True), _taken_gradients(model, add):
        for row in range(len(split.items)):
            batch, loss = _item_loss(model, split, row)
            loss.backward()
            if not_finite:
                raise _not_finite(f"gradient of '{not_finite[-1]}'", batch.ids[0], split)


def _item_loss(model: LoadedModel, split: EncodedSplit, row: int) -> tuple[Batch, Tensor]:
    """Return one item as a batch, and its mean answer cross-entropy in nats, with its graph."""
    device = model.anatomy.embedding.weight.device
    batch = collate(split, [row], pad_id=padding_id(model.tokenizer), device=device)
    with torch.enable_grad(), record(model.anatomy, (), batch):
        logits = forward(model.model, batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.gold)
    if not bool(loss.detach().isfinite()):
        raise _not_finite("loss", batch.ids[0], split)
    return batch, loss


def _not_finite(what: str, item: str, split: EncodedSplit) -> NonFiniteError:
    return NonFiniteError(
        f"the source's {what} is not finite on item {item} of split '{split.name}'. "
        "Try --dtype float32."
    )


@contextlib.contextmanager
def _parameter_gradients(model: LoadedModel, *, wanted: bool) -> Iterator[None]:
    """Let gradients reach all parameters, or none; flags and grads are as before after."""
    before = {name: (p.requires_grad, p.grad) for name, p in model.model.named_parameters()}
    try:
        for parameter in model.model.parameters():
            parameter.requires_grad_(wanted)
            parameter.grad = None
        yield
    finally:
        for name, parameter in model.model.named_parameters():
            flag, gradient = before[name]
            parameter.requires_grad_(flag)
            parameter.grad = gradient


@contextlib.contextmanager
def _taken_gradients(model: LoadedModel, take: Callable[[str, Any], None]) -> Iterator[None]:
    """Call `take(name, parameter)` whenever a parameter's gradient is complete."""
    handles = [
        parameter.register_post_accumulate_grad_hook(functools.partial(take, name))
        for name, parameter in model.model.named_parameters()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _block_outputs(model: LoadedModel) -> Iterator[list[Any]]:
    """Collect the blocks' output tensors, in order; the graph begins at the embedding's output."""
    outputs: list[Any] = []

    def begin(module: Any, args: Any, output: Any) -> None:
        output.requires_grad_(True)

    def hook(module: Any, args: Any, output: Any) -> None:
        outputs.append(hidden_state(output))

    handles = [model.anatomy.embedding.register_forward_hook(begin)]
    handles += [block.register_forward_hook(hook) for block in model.anatomy.blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()

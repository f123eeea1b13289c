"""What one forward pass shows of a model's halves and neurons at an item's answer.

A block adds an attention half `a` and a feed-forward half `m` to the residual stream. Each half
is a sum over *neurons*: `m = Σ c_i W_down[:, i] + bias` with the activations `c` that enter the
down projection, `a = Σ u_j W_o[:, j] + bias` with the mixed values `u` that enter the output
projection. Where a norm follows the half (Gemma 2 and 3), it is linear once its denominator is
held at what the run gave it, and its factor goes with every neuron.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import nn

from pktkit.activations.recording import hidden_state
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.offloaded import held

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel

TRAILING = '." )\n,]'
"""Characters that the published method strips from the end of an answer."""

TOLERANCE = 0.02
"""Relative error up to which a block's output counts as the sum of its parts; bf16 needs 0.01."""


class Half(enum.StrEnum):
    """The two halves of a block."""

    ATTENTION = "attention"
    FFN = "ffn"

    @property
    def writer(self) -> str:
        """Canonical projection whose columns its neurons write to the residual stream with."""
        return "o" if self is Half.ATTENTION else "down"


@attrs.frozen(eq=False)
class HalfReading:
    """One half of a block at the positions read, fp32.

    Arguments:
        base: `[positions, D]`, the residual stream that the half reads and adds to. In parallel
            blocks both halves have the block's input.
        step: `[positions, D]`, what the half adds.
        coefficients: `[positions, neurons]`.
        gain: `[positions, D]`, factor of the norm after the half; None without such a norm.
    """

    base: Tensor
    step: Tensor
    coefficients: Tensor
    gain: Tensor | None


@attrs.frozen(eq=False)
class Reading:
    """One item in one model.

    Arguments:
        halves: by half, one reading per block.
        final: `[positions, D]`, the residual stream before the final norm, fp32.
        gold: the answer token after each position.
    """

    halves: Mapping[Half, Sequence[HalfReading]]
    final: Tensor
    gold: tuple[int, ...]


def answer_tokens(tokenizer: Any, item: EncodedItem, target: str) -> tuple[int, ...]:
    """Return where in `input_ids` the tokens stand whose probability is attributed.

    Arguments:
        tokenizer: of the model that reads the item.
        item: encoded by it.
        target: `"last_token"`, the last answer token that is not only closing punctuation (see
            `TRAILING`), or `"all_answer_tokens"`. The end-of-sequence token never counts.

    Raises:
        UsageError: the answer has no such token.
    """
    answer = range(item.supervised, len(item.input_ids) - item.ends)
    if target == "last_token":
        worded = (i for i in reversed(answer) if _worded(tokenizer, item.input_ids[i]))
        answer = range(last, last + 1) if (last := next(worded, None)) is not None else range(0)
    if not answer:
        raise UsageError(
            f"item {item.id} has an empty answer (nothing before the end of sequence but "
            "punctuation); neuron attribution needs a token to explain. Remove the item."
        )
    return tuple(answer)


def _worded(tokenizer: Any, token: int) -> bool:
    return bool(tokenizer.decode([token]).strip(TRAILING))


def read_item(model: LoadedModel, item: EncodedItem, target: str, attn_pos: str) -> Reading:
    """Run a model on an item up to its answer's last attributed token.

    Arguments:
        model: in eval mode; it is not changed.
        item: encoded by the model's tokenizer.
        target: see `answer_tokens`.
        attn_pos: `"sum"` takes attention's mixed values over all key positions, `"last_key"`
            only what a token contributes to itself.

    Raises:
        UsageError: the item's answer is empty.
        PairIncompatibleError: the model's blocks are no sums of their halves.
    """
    tokens = answer_tokens(model.tokenizer, item, target)
    anatomy = model.anatomy
    device = anatomy.embedding.weight.device
    ids = torch.tensor([item.input_ids[: tokens[-1]]], device=device)
    at = torch.tensor(tokens, device=device) - 1
    with torch.no_grad():
        with _taps(anatomy, at) as seen:
            model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        halves = {half: [seen.half(b, half) for b in range(anatomy.n_blocks)] for half in Half}
        for block in range(anatomy.n_blocks):
            seen.check(block, [halves[half][block].step for half in Half])
        if attn_pos == "last_key":
            halves[Half.ATTENTION] = [
                attrs.evolve(reading, coefficients=seen.own_values(block))
                for block, reading in enumerate(halves[Half.ATTENTION])
            ]
    final = seen.outputs[anatomy.n_blocks - 1]
    return Reading(halves, final, tuple(item.input_ids[i] for i in tokens))


@attrs.define(eq=False)
class _Seen:
    """Tensors seen during a forward pass, at the positions read, by block."""

    anatomy: Anatomy
    at: Tensor
    norms: Sequence[Mapping[str, str]]
    inputs: dict[int, Tensor] = attrs.field(factory=dict)
    outputs: dict[int, Tensor] = attrs.field(factory=dict)
    ffn_inputs: dict[int, Tensor] = attrs.field(factory=dict)
    coefficients: dict[tuple[int, Half], Tensor] = attrs.field(factory=dict)
    written: dict[tuple[int, Half], Tensor] = attrs.field(factory=dict)
    calls: dict[int, tuple[Any, Any]] = attrs.field(factory=dict)

    def half(self, block: int, half: Half) -> HalfReading:
        """Put a half together; a block without a norm of its own for the ffn is parallel."""
        written = self.written[block, half]
        gain = self._gain(block, half, written)
        base = self.inputs[block]
        if half is Half.FFN:
            base = self.ffn_inputs.get(block, base)
        return HalfReading(
            base=base,
            step=written if gain is None else written * gain,
            coefficients=self.coefficients[block, half],
            gain=gain,
        )

    def check(self, block: int, steps: Sequence[Tensor]) -> None:
        """Refuse blocks whose output is not the input plus both halves."""
        output = self.outputs[block]
        rest = output - self.inputs[block] - steps[0] - steps[1]
        error = float(rest.norm() / output.norm().clamp(min=1e-30))
        if error > TOLERANCE:
            raise PairIncompatibleError(
                f"block {block} of this '{self.anatomy.family}' model does not add its attention "
                f"and feed-forward halves to its input (relative error {error:.2g}); neuron "
                "attribution needs a residual stream."
            )

    def own_values(self, block: int) -> Tensor:
        """Return `α[T→T] · v[T]` by attention neuron, `[positions, n_heads * head_dim]`.

        The block's attention runs again on the same input with every other value row at zero,
        whatever its implementation, once per position.
        """
        projections = self.anatomy.projections(block)
        value, output = projections["v"], projections["o"]
        args, kwargs = self.calls[block]
        attention = _owner(self.anatomy, output.module)
        rows = slice(None) if value.rows is None else value.rows
        parts: list[Tensor] = []
        for position in self.at.tolist():

            def alone(module: Any, args: Any, out: Tensor, position: int = position) -> Tensor:
                masked = out.clone()
                part = torch.zeros_like(masked[..., rows])
                part[:, position] = out[:, position][..., rows]
                masked[..., rows] = part
                return masked

            def keep(module: Any, args: Any, position: int = position) -> None:
                parts.append(args[0].reshape(-1, args[0].shape[-1])[position].float())

            handles = [
                self.anatomy.model.get_submodule(value.module).register_forward_hook(alone),
                self.anatomy.model.get_submodule(output.module).register_forward_pre_hook(keep),
            ]
            try:
                attention(*args, **kwargs)
            finally:
                for handle in handles:
                    handle.remove()
        return torch.stack(parts)

    def _gain(self, block: int, half: Half, written: Tensor) -> Tensor | None:
        name = self.norms[block].get(f"post_{half}")
        if name is None:
            return None
        norm = _owner(self.anatomy, name)
        weight = held(self.anatomy.model, name).to(written.device)
        scale = (written.square().mean(dim=-1, keepdim=True) + epsilon(norm)).rsqrt()
        return (weight.float() + self.anatomy.layout.gain_offset) * scale

    def keep(self, tensor: Tensor) -> Tensor:
        """Take the positions read, `[positions, size]`, of a batch of one."""
        return tensor.detach().reshape(-1, tensor.shape[-1])[self.at].float()


@contextlib.contextmanager
def _taps(anatomy: Anatomy, at: Tensor) -> Iterator[_Seen]:
    """Attach the hooks of one forward pass; the LM head is fed one position only."""
    seen = _Seen(anatomy, at, [anatomy.norms(block) for block in range(anatomy.n_blocks)])
    handles = [anatomy.head.register_forward_pre_hook(lambda module, args: (args[0][:, -1:],))]
    try:
        for block, module in enumerate(anatomy.blocks):
            projections, norms = anatomy.projections(block), seen.norms[block]
            attention = _owner(anatomy, projections[Half.ATTENTION.writer].module)
            before = module.register_forward_pre_hook
            handles.append(before(_inputs_into(seen, seen.inputs, block), with_kwargs=True))
            handles.append(module.register_forward_hook(_outputs_into(seen, block)))
            handles.append(
                attention.register_forward_pre_hook(_calls_into(seen, block), with_kwargs=True)
            )
            for half in Half:
                writer = anatomy.model.get_submodule(projections[half.writer].module)
                handles.append(writer.register_forward_hook(_writes_into(seen, block, half)))
            if "ffn" in norms:
                norm = _owner(anatomy, norms["ffn"])
                hook = _inputs_into(seen, seen.ffn_inputs, block)
                handles.append(norm.register_forward_pre_hook(hook, with_kwargs=True))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _inputs_into(seen: _Seen, place: dict[int, Tensor], block: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        place[block] = seen.keep(args[0] if args else kwargs["hidden_states"])

    return hook


def _outputs_into(seen: _Seen, block: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen.outputs[block] = seen.keep(hidden_state(output))

    return hook


def _calls_into(seen: _Seen, block: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.calls[block] = (args, kwargs)

    return hook


def _writes_into(seen: _Seen, block: int, half: Half) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        seen.coefficients[block, half] = seen.keep(args[0])
        seen.written[block, half] = seen.keep(output)

    return hook


def epsilon(norm: nn.Module) -> float:
    """Return what a norm adds under its root."""
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))


def _owner(anatomy: Anatomy, name: str) -> nn.Module:
    """Return the module that holds a parameter or a submodule of a dotted name."""
    return anatomy.model.get_submodule(name.rpartition(".")[0])

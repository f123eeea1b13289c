"""A canonical projection of one block, read and composed in `[out, in]` orientation."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor, nn

from pktkit.errors import UsageError
from pktkit.families.table import Fusion
from pktkit.quantised import weight_of


@attrs.frozen(eq=False)
class Projection:
    """One of `q k v o gate up down` in one block.

    Query rows are head-major `[n_heads * head_dim, width]`, key and value rows
    `[n_kv_heads * head_dim, width]`, `o` is `[width, n_heads * head_dim]`, `gate` and `up` are
    `[ffn_width, width]`, `down` is `[width, ffn_width]`, whatever the checkpoint's own layout.

    Arguments:
        name: canonical name.
        block: block index, 0-based.
        parameter: name of the weight in `model.named_parameters()`.
        module: dotted name of the module that holds it; shared by `q`, `k`, `v` where fused.
        transposed: the weight is stored `[in, out]`.
        rows: which rows of the canonical matrix belong to this projection; None for all.
        bias: parameter name of the bias, None where there is none.
    """

    name: str
    block: int
    parameter: str
    module: str
    transposed: bool = False
    rows: Tensor | slice | None = None
    bias: str | None = None

    @property
    def fused(self) -> bool:
        """Whether the parameter holds other projections as well."""
        return self.rows is not None

    def shape(self, model: nn.Module) -> tuple[int, int]:
        """Return `(out, in)` without reading a value."""
        stored = model.get_parameter(self.parameter).shape
        rows, columns = (stored[1], stored[0]) if self.transposed else (stored[0], stored[1])
        return len(torch.arange(rows)[self._rows]), int(columns)

    def read(self, model: nn.Module) -> Tensor:
        """Return a copy of the projection, `[out, in]`, in the model's dtype and device."""
        stored = _parameter(model, self.parameter)
        canonical = stored.T if self.transposed else stored
        return canonical[self._rows].clone(memory_format=torch.contiguous_format)

    def compose(self, model: nn.Module, value: Tensor) -> Tensor:
        """Return the whole parameter, in its own layout, with this projection replaced.

        The model is not changed. Other projections in a fused parameter keep their bits.

        Arguments:
            model: the model the parameter is read from.
            value: `[out, in]`, as `read` returns it; cast to the parameter's dtype and device.

        Raises:
            UsageError: `value` has another shape.
        """
        full = _parameter(model, self.parameter).clone(memory_format=torch.contiguous_format)
        return self._replace(full, full.T if self.transposed else full, value)

    def read_bias(self, model: nn.Module) -> Tensor | None:
        """Return a copy of the bias, `[out]`, or None where the projection has none."""
        return None if self.bias is None else _parameter(model, self.bias)[self._rows].clone()

    def compose_bias(self, model: nn.Module, value: Tensor) -> Tensor:
        """Return the whole bias parameter with this projection's entries replaced.

        Arguments:
            model: the model the parameter is read from.
            value: `[out]`.

        Raises:
            UsageError: the projection has no bias, or `value` has another shape.
        """
        if self.bias is None:
            raise UsageError(f"projection '{self.name}' of block {self.block} has no bias.")
        full = _parameter(model, self.bias).clone()
        return self._replace(full, full, value)

    @property
    def _rows(self) -> Tensor | slice:
        return slice(None) if self.rows is None else self.rows

    def _replace(self, full: Tensor, canonical: Tensor, value: Tensor) -> Tensor:
        """Write `value` through the view `canonical` of `full`, and return `full`."""
        expected = tuple(canonical[self._rows].shape)
        if tuple(value.shape) != expected:
            raise UsageError(
                f"projection '{self.name}' of block {self.block} ({self.parameter}): expected "
                f"shape {expected}, got {tuple(value.shape)}."
            )
        canonical[self._rows] = value.detach().to(canonical)
        return full


def fused_rows(name: str, fusion: Fusion, sizes: Sequence[int], head_dim: int) -> slice | Tensor:
    """Return which rows of a fused query-key-value matrix hold `q`, `k` or `v`.

    Arguments:
        name: `"q"`, `"k"` or `"v"`.
        fusion: the layout.
        sizes: rows of q, k and v; equal where interleaved.
        head_dim: rows of one head.
    """
    part = "qkv".index(name)
    if fusion is Fusion.STACKED:
        start = sum(sizes[:part])
        return slice(start, start + sizes[part])
    heads = torch.arange(sizes[part] // head_dim).unsqueeze(1)
    return (heads * 3 * head_dim + part * head_dim + torch.arange(head_dim)).flatten()


def _parameter(model: nn.Module, name: str) -> Tensor:
    try:
        return weight_of(model, name)
    except AttributeError as error:
        raise UsageError(
            f"the model has no parameter '{name}'. If a PEFT adapter is attached, merge or "
            "unload it before reading or composing projections."
        ) from error

"""New values of target parameters, drawn up copy by copy from a source's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pktkit.offloaded import held
from pktkit.slicing import Placement

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Projection
    from pktkit.pair import ModelPair
    from pktkit.slicing import Slicer
    from pktkit.values import LayerLink


class Draft:
    """Whole target parameters with parts of the source's in them; no model is changed.

    Parameters are cut in canonical orientation, so that one output or input channel of the target
    receives one of the source.

    Attributes:
        values: whole parameters by name, begun as copies of the target's own, in the more precise
            of the two models' types.
        copied: entries overwritten so far; copies do not overlap.
    """

    def __init__(self, pair: ModelPair, slicer: Slicer) -> None:
        self.values: dict[str, Tensor] = {}
        self.copied = 0
        self._source, self._target = pair.source.anatomy, pair.target.anatomy
        self._slicer = slicer
        self._names = {id(p): name for name, p in pair.target.model.named_parameters()}

    def block(self, link: LayerLink) -> None:
        """Copy the projections (weights and biases) and norms that both blocks have."""
        ours, placed = self._source.projections(link.main), self._slicer.block(link.main)
        for name, theirs in self._target.projections(link.target).items():
            if name not in ours:
                continue
            rows, columns = placed.sides(name)
            self._copy_part(theirs, ours[name].read(self._source.model), rows, columns)
            bias = ours[name].read_bias(self._source.model)
            if bias is not None and theirs.bias is not None:
                self._copy_part(theirs, bias, rows)
        norms = self._source.norms(link.main)
        for key, name in self._target.norms(link.target).items():
            if key in norms:
                value = held(self._source.model, norms[key])
                kind, _, bias_suffix = key.partition(".")
                self._copy_norm(name, value, placed.norm(kind), is_gain=not bias_suffix)

    def ends(self) -> None:
        """Copy embedding, final norm and LM head; tied ones once, as the embedding."""
        ours, theirs = self._source, self._target
        residual = self._slicer.residual
        self._copy_rows(theirs.embedding.weight, ours.embedding.weight, residual)
        if not theirs.tied:
            self._copy_rows(theirs.head_weight, ours.head_weight, residual)
            if ours.head.bias is not None and theirs.head.bias is not None:
                self._copy_rows(theirs.head.bias, ours.head.bias)
        for kind in ("weight", "bias"):
            mine = getattr(ours.final_norm, kind, None)
            other = getattr(theirs.final_norm, kind, None)
            if mine is not None and other is not None:
                name = self._names[id(other)]
                self._copy_norm(name, mine.detach(), residual, is_gain=kind == "weight")

    def _copy_rows(self, theirs: Tensor, ours: Tensor, *columns: Placement) -> None:
        """Copy the leading rows, one per token of a vocabulary."""
        rows = Placement.leading(ours.shape[0], theirs.shape[0])
        self._copy(self._value(self._names[id(theirs)]), ours.detach(), rows, *columns)

    def _copy_norm(self, name: str, value: Tensor, channels: Placement, *, is_gain: bool) -> None:
        """Copy a norm's weight or bias; families differ in what they add to the stored gain."""
        offset = self._source.layout.gain_offset - self._target.layout.gain_offset
        if is_gain and offset:
            value = value.float() + offset
        self._copy(self._value(name), value, channels)

    def _copy_part(self, theirs: Projection, ours: Tensor, *axes: Placement) -> None:
        """Copy into one projection of a parameter that may hold several: a weight, or a bias."""
        is_weight = ours.dim() == 2
        stored = self._value(str(theirs.parameter if is_weight else theirs.bias))
        matrix = stored.T if theirs.transposed and is_weight else stored
        rows: Any = slice(None) if theirs.rows is None else theirs.rows
        part = matrix[rows]
        self._copy(part, ours, *axes)
        matrix[rows] = part

    def _copy(self, into: Tensor, value: Tensor, *axes: Placement) -> None:
        """Copy the placed entries, in place, and count them.

        Arguments:
            into, value: a matrix or a vector of target and source.
            axes: one placement per dimension.
        """
        into[crossed([axis.target for axis in axes])] = value[
            crossed([axis.source for axis in axes])
        ].to(into)
        self.copied += math.prod(len(axis) for axis in axes)

    def _value(self, name: str) -> Tensor:
        if name not in self.values:
            own = self._target.model.get_parameter(name).detach()
            dtype = torch.promote_types(own.dtype, self._source.embedding.weight.dtype)
            self.values[name] = own.to(dtype, copy=True)
        return self.values[name]


def crossed(axes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return an index of every combination of the axes' indices, without writing them out."""
    dims = len(axes)
    return tuple(axis.view(-1, *[1] * (dims - 1 - i)) for i, axis in enumerate(axes))

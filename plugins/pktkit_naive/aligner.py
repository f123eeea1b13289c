"""Truncation: the top-left corner of every source parameter, where it fits the target.

Parameters are cut in canonical orientation, so that one output or input channel of the target
receives one of the source. Attention is cut by whole heads: head h of the target receives the
leading channels of head h of the source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pktkit.values import Alignment, DenseUpdate, LayerLink, LayerMap

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy, Projection
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe

OUTPUT_HEADS = ("q", "k", "v")
INPUT_HEADS = ("o",)


@attrs.frozen
class TruncateOptions:
    """Truncation has no settings."""


class Truncate:
    """Overwrites linked blocks, embedding, final norm and LM head with the source's, truncated.

    Where the target is larger in a dimension, its own values stay outside the copied part; so do
    parameters that the source lacks. Vocabularies are cut by row, whatever the tokens mean. A
    link with several source blocks uses the one with the largest weight.
    """

    Options = TruncateOptions

    def __init__(self, options: TruncateOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one dense update per target parameter that receives anything."""
        draft = Draft(pair)
        for link in layer_map.links:
            draft.projections(link)
            draft.norms(link)
        draft.ends()
        updates = [DenseUpdate(name, value) for name, value in draft.values.items()]
        copied = sum(draft.copied.values())
        total = sum(parameter.numel() for parameter in pair.target.model.parameters())
        return Alignment(
            "truncate",
            layer_map,
            dense=updates,
            diagnostics={"copied_entries": copied, "copied_share": copied / total},
        )


class Draft:
    """New values of target parameters, drawn up copy by copy.

    Attributes:
        values: whole parameters by name, begun as copies of the target's own.
        copied: entries overwritten so far, by parameter; overlapping copies do not occur.
    """

    def __init__(self, pair: ModelPair) -> None:
        self.values: dict[str, Tensor] = {}
        self.copied: dict[str, int] = {}
        self._source, self._target = pair.source.anatomy, pair.target.anatomy
        self._names = {id(p): name for name, p in pair.target.model.named_parameters()}

    def projections(self, link: LayerLink) -> None:
        """Copy weights and biases of the projections that both blocks have."""
        ours = self._source.projections(main_source(link))
        for name, theirs in self._target.projections(link.target).items():
            if name not in ours:
                continue
            self._copy_part(theirs, ours[name].read(self._source.model))
            bias = ours[name].read_bias(self._source.model)
            if bias is not None and theirs.bias is not None:
                self._copy_part(theirs, bias, bias=True)

    def norms(self, link: LayerLink) -> None:
        """Copy the norms that both blocks have, gains as what they multiply by."""
        ours = self._source.norms(main_source(link))
        for key, name in self._target.norms(link.target).items():
            if key in ours:
                value = self._source.model.get_parameter(ours[key]).detach()
                self._copy_norm(name, value, is_gain=not key.endswith(".bias"))

    def ends(self) -> None:
        """Copy embedding, final norm and LM head; tied ones once, as the embedding."""
        ours, theirs = self._source, self._target
        self._copy_whole(theirs.embedding.weight, ours.embedding.weight)
        if not theirs.tied:
            self._copy_whole(theirs.head_weight, ours.head_weight)
            if ours.head.bias is not None and theirs.head.bias is not None:
                self._copy_whole(theirs.head.bias, ours.head.bias)
        for kind in ("weight", "bias"):
            mine = getattr(ours.final_norm, kind, None)
            other = getattr(theirs.final_norm, kind, None)
            if mine is not None and other is not None:
                self._copy_norm(self._names[id(other)], mine.detach(), is_gain=kind == "weight")

    def _copy_whole(self, theirs: Tensor, ours: Tensor) -> None:
        name = self._names[id(theirs)]
        self._count(name, copy_corner(self._value(name), ours.detach()))

    def _copy_norm(self, name: str, value: Tensor, *, is_gain: bool) -> None:
        """Copy a norm's weight or bias; families differ in what they add to the stored gain."""
        offset = self._source.layout.gain_offset - self._target.layout.gain_offset
        if is_gain and offset:
            value = value.float() + offset
        self._count(name, copy_corner(self._value(name), value))

    def _copy_part(self, theirs: Projection, ours: Tensor, *, bias: bool = False) -> None:
        """Copy into one projection of a parameter that may hold several."""
        name = str(theirs.bias if bias else theirs.parameter)
        stored = self._value(name)
        matrix = stored.T if theirs.transposed and not bias else stored
        rows: Any = slice(None) if theirs.rows is None else theirs.rows
        part = matrix[rows]
        self._count(
            name,
            copy_corner(
                by_heads(part, theirs.name, self._target), by_heads(ours, theirs.name, self._source)
            ),
        )
        matrix[rows] = part

    def _value(self, name: str) -> Tensor:
        if name not in self.values:
            self.values[name] = self._target.model.get_parameter(name).detach().clone()
        return self.values[name]

    def _count(self, name: str, entries: int) -> None:
        self.copied[name] = self.copied.get(name, 0) + entries


def by_heads(matrix: Tensor, projection: str, anatomy: Anatomy) -> Tensor:
    """View a projection's weight or bias with its heads as a dimension of their own.

    `q k v` weights become `[heads, head_dim, in]`, their biases `[heads, head_dim]`, the `o`
    weight `[out, heads, head_dim]`; everything else is returned as it is.
    """
    if projection in OUTPUT_HEADS:
        return matrix.unflatten(0, (-1, anatomy.head_dim))
    if projection in INPUT_HEADS and matrix.dim() == 2:
        return matrix.unflatten(1, (-1, anatomy.head_dim))
    return matrix


def copy_corner(into: Tensor, value: Tensor) -> int:
    """Copy the leading entries that both tensors have, in place; return how many.

    Arguments:
        into, value: tensors of the same number of dimensions.
    """
    corner = tuple(slice(0, min(a, b)) for a, b in zip(into.shape, value.shape, strict=True))
    into[corner] = value[corner].to(into)
    return into[corner].numel()


def main_source(link: LayerLink) -> int:
    """Return the source block of a link with the largest weight, the first of equals."""
    return link.sources[link.weights.index(max(link.weights))]

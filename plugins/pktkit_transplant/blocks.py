"""A source block rewritten in a target's coordinates, as changes of the target's parameters.

With `R` the way back into the source's residual basis and `Q` the way into the target's
(`pktkit_transplant.maps`), `g` what a norm multiplies by and `b` what it adds:

    reading (q k v gate up)   W = W_src diag(g_src) R diag(1 / g_tgt)
                              β = β_src + W_src b_src − W b_tgt
    writing (o down)          W = diag(1 / g'_tgt) Q diag(g'_src) W_src,   β likewise

where `g'` belongs to a norm after the half of the block, if both models have one. Biases need a
bias in the target to go to. Heads and neurons are chosen by norm, whole (`NormSlicer`); what the
target has in excess keeps its own weights. Norms of queries and keys, and the scale of attention
scores, come along with `q` and `k`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.offloaded import held
from pktkit.slicing import INPUT_SIDE, NormSlicer
from pktkit_transplant.maps import Change

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy, Projection
    from pktkit.slicing import BlockPlacement
    from pktkit.values import LayerLink

HALF = dict.fromkeys(("q", "k", "v", "o"), "attention") | dict.fromkeys(
    ("gate", "up", "down"), "ffn"
)
BLIND = 1e-6
"""Coordinates whose gain is below this share of the largest are invisible behind a norm."""


@attrs.frozen(eq=False)
class Side:
    """One block of one model, read in fp64 on the CPU."""

    anatomy: Anatomy
    block: int

    def weight(self, name: str) -> Tensor:
        """Return a projection, `[out, in]`."""
        return self.projection(name).read(self.anatomy.model).cpu().double()

    def bias(self, name: str) -> Tensor | None:
        """Return a projection's bias, `[out]`, if it has one."""
        bias = self.projection(name).read_bias(self.anatomy.model)
        return None if bias is None else bias.cpu().double()

    def projection(self, name: str) -> Projection:
        """Return the place of a projection."""
        return self.anatomy.projections(self.block)[name]

    def gain(self, name: str) -> Tensor:
        """Return what the norm before a reading, or after a writing, projection multiplies by."""
        value = self._norm(name, "")
        if value is None:
            return torch.ones(self.anatomy.width, dtype=torch.float64)
        return value + self.anatomy.layout.gain_offset

    def shift(self, name: str) -> Tensor | None:
        """Return what the norm before a reading projection adds, if it adds anything."""
        return self._norm(name, ".bias")

    @property
    def attention_scale(self) -> float:
        """What the block multiplies attention scores by."""
        path = self.projection("o").module.rpartition(".")[0]
        module: Any = self.anatomy.model.get_submodule(path)
        return float(getattr(module, "scaling", self.anatomy.head_dim**-0.5))

    def _norm(self, name: str, part: str) -> Tensor | None:
        norms, half = self.anatomy.norms(self.block), HALF[name]
        before = half if half in norms else "attention"  # parallel blocks share one norm
        key = f"post_{half}" if name in INPUT_SIDE else before
        parameter = norms.get(key + part)
        if parameter is None:
            return None
        return held(self.anatomy.model, parameter).cpu().double()


@attrs.frozen(eq=False)
class Deltas:
    """What to add to target parameters, fp32, in the parameters' own layout.

    Attributes:
        values: by parameter name.
        kept: share of each update's energy that its truncation kept, by `block.projection`.
    """

    anatomy: Anatomy
    values: dict[str, Tensor] = attrs.field(factory=dict, init=False)
    kept: dict[str, float] = attrs.field(factory=dict, init=False)

    def add(self, projection: Projection, delta: Tensor) -> None:
        """Add a change of a projection's weight `[out, in]` or bias `[out]`."""
        is_weight = delta.dim() == 2
        full = self.parameter(str(projection.parameter if is_weight else projection.bias))
        canonical = full.T if projection.transposed and is_weight else full
        rows: Any = slice(None) if projection.rows is None else projection.rows
        canonical[rows] += delta.to(full)

    def parameter(self, name: str) -> Tensor:
        """Return the change of a whole parameter, zero at first."""
        if name not in self.values:
            parameter = self.anatomy.model.get_parameter(name)
            self.values[name] = torch.zeros_like(parameter, dtype=torch.float32)
        return self.values[name]


def transplanted(
    source: Anatomy,
    target: Anatomy,
    links: Iterable[LayerLink],
    changes: Mapping[int, Change],
    *,
    modules: Iterable[str],
    rank: int | None,
) -> Deltas:
    """Return the changes that make target blocks compute what their source blocks do.

    Arguments:
        source, target: the two models; neither is changed.
        links: which source block (the main one) goes to which target block.
        changes: change of basis by target block; links without one are passed over.
        modules: projections to rewrite, each one that both families have.
        rank: largest rank of each weight's change; None keeps it whole.
    """
    slicer, deltas = NormSlicer(source, target), Deltas(target)
    names = [name for name in target.projection_names if name in set(modules)]
    for link in links:
        if link.target not in changes:
            continue
        placed = slicer.block(link.main)
        ours, theirs = Side(source, link.main), Side(target, link.target)
        for name in names:
            _rewrite(name, ours, theirs, changes[link.target], placed, deltas, rank)
    return deltas


def _rewrite(
    name: str,
    ours: Side,
    theirs: Side,
    change: Change,
    placed: BlockPlacement,
    deltas: Deltas,
    rank: int | None,
) -> None:
    """Add what changes a projection, its bias, and its head norm."""
    projection, own = theirs.projection(name), theirs.weight(name)
    wanted = own.clone()
    if name in INPUT_SIDE:
        axis = placed.inner(name)
        wanted[:, axis.target] = _writing(name, ours, theirs, change)[:, axis.source]
    else:
        axis = placed.inner(name)
        scale = _score_scale(name, ours, theirs)
        wanted[axis.target] = scale * _reading(name, ours, theirs, change)[axis.source]
    delta = truncated(wanted - own, rank)
    deltas.kept[f"{theirs.block}.{name}"] = _share(delta, wanted - own)
    deltas.add(projection, delta)
    bias = theirs.bias(name)
    if bias is not None:
        deltas.add(projection, _bias(name, ours, theirs, change, placed, own + delta) - bias)
    for parameter, value in _head_norm(name, ours, theirs, placed):
        deltas.parameter(parameter).add_(value.to(deltas.parameter(parameter)))


def _reading(name: str, ours: Side, theirs: Side, change: Change) -> Tensor:
    return (ours.weight(name) * ours.gain(name)) @ change.read * reciprocal(theirs.gain(name))


def _writing(name: str, ours: Side, theirs: Side, change: Change) -> Tensor:
    folded = ours.gain(name)[:, None] * ours.weight(name)
    return reciprocal(theirs.gain(name))[:, None] * (change.write @ folded)


def _bias(
    name: str,
    ours: Side,
    theirs: Side,
    change: Change,
    placed: BlockPlacement,
    weight: Tensor,
) -> Tensor:
    """Return the target's new bias, for the weight `[out, in]` that it will stand beside."""
    own, given = theirs.bias(name), ours.bias(name)
    assert own is not None
    if name in INPUT_SIDE:
        if given is None:
            return torch.zeros_like(own)
        return reciprocal(theirs.gain(name)) * (change.write @ (ours.gain(name) * given))
    constant = torch.zeros(ours.weight(name).shape[0], dtype=torch.float64)
    if given is not None:
        constant += given
    shift, other = ours.shift(name), theirs.shift(name)
    if shift is not None:
        constant += ours.weight(name) @ shift
    axis, wanted = placed.inner(name), own.clone()
    wanted[axis.target] = _score_scale(name, ours, theirs) * constant[axis.source]
    if other is not None:
        wanted[axis.target] -= weight[axis.target] @ other
    return wanted


def _head_norm(
    name: str, ours: Side, theirs: Side, placed: BlockPlacement
) -> Iterator[tuple[str, Tensor]]:
    """Yield changes of the norm of queries or keys, where both models have one."""
    given, own = ours.anatomy.norms(ours.block), theirs.anatomy.norms(theirs.block)
    if name not in ("q", "k") or name not in given or name not in own:
        return
    scale = _scale_ratio(ours, theirs) if name == "q" else 1.0
    axis = placed.qk_channels
    for part, offsets in (("", True), (".bias", False)):
        if name + part not in given or name + part not in own:
            continue
        value = held(ours.anatomy.model, given[name + part]).cpu().double()
        stored = theirs.anatomy.model.get_parameter(own[name + part]).detach().cpu().double()
        ours_offset = ours.anatomy.layout.gain_offset if offsets else 0.0
        theirs_offset = theirs.anatomy.layout.gain_offset if offsets else 0.0
        delta = torch.zeros_like(stored)
        wanted = scale * (value[axis.source] + ours_offset) - theirs_offset
        delta[axis.target] = wanted - stored[axis.target]
        yield own[name + part], delta


def _score_scale(name: str, ours: Side, theirs: Side) -> float:
    """Return what query rows are multiplied by; where queries are normalised, their norm is."""
    if name != "q" or "q" in theirs.anatomy.norms(theirs.block):
        return 1.0
    return _scale_ratio(ours, theirs)


def _scale_ratio(ours: Side, theirs: Side) -> float:
    """Return the factor that gives attention scores of the source in the target."""
    return ours.attention_scale / theirs.attention_scale


def truncated(matrix: Tensor, rank: int | None) -> Tensor:
    """Return the best approximation of a rank; None, or its full rank, returns it as it is."""
    if rank is None or rank >= min(matrix.shape):
        return matrix
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * values[:rank]) @ vh[:rank]


def reciprocal(gain: Tensor) -> Tensor:
    """Return `1 / g`, and 0 for coordinates that the norm hides."""
    hidden = gain.abs() <= BLIND * gain.abs().max()
    return torch.where(hidden, 0.0, 1 / torch.where(hidden, 1.0, gain))


def _share(part: Tensor, whole: Tensor) -> float:
    energy = float(whole.square().sum())
    return float(part.square().sum()) / energy if energy else 1.0

"""Vocabulary-defined maps between latent spaces, each as one `[D_tgt, D_src]` matrix.

The LM head `W` `[V, D]` defines a semantic basis: token i has the vector `s_i`, row i of the
transposed pseudo-inverse (arXiv 2510.24208, section on vocabulary-defined semantics). With
Gram matrix `G = WᵀW`, `s_i = G⁻¹ w_i`. Decomposing a state into token coefficients in one space
and recomposing it in the other is linear, so the V-sized coefficients never need to exist: all
maps below are sums over tokens that are accumulated in fp64 over chunks of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.activations.moments import add_gram, mirrored
from pktkit.errors import PairIncompatibleError
from pktkit_latent.spectral import inverse, spectral

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 8192
"""Vocabulary rows handled at a time."""

MAPS_VERSION = 1
"""Raised whenever a map's value changes: stored maps are addressed by it."""


@attrs.frozen(eq=False)
class Heads:
    """The two LM heads, row i of both meaning the same token.

    Arguments:
        source: `[V, D_src]`; target: `[V, D_tgt]`; any float dtype, same device.
    """

    source: Tensor
    target: Tensor

    def __attrs_post_init__(self) -> None:
        if self.source.shape[0] != self.target.shape[0]:
            raise PairIncompatibleError(
                f"the LM heads have {self.source.shape[0]} and {self.target.shape[0]} tokens; "
                "rows with the same index must mean the same token."
            )

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield matching fp64 slices of both heads."""
        for start in range(0, self.source.shape[0], CHUNK):
            stop = start + CHUNK
            yield self.source[start:stop].double(), self.target[start:stop].double()


def unit_rows(rows: Tensor) -> Tensor:
    """Scale rows to length one; zero rows (padding tokens) stay zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows / norms.clamp(min=1e-300), torch.zeros_like(rows))


@attrs.frozen(eq=False)
class Frames:
    """Turns rows of both heads into rows of their unit-normalised semantic bases.

    Arguments:
        heads: the two heads.
        source, target: inverse Gram matrices of the heads.
    """

    heads: Heads
    source: Tensor
    target: Tensor

    @classmethod
    def of(cls, heads: Heads) -> Frames:
        """Invert the Gram matrices of both heads."""
        return cls(heads, inverse(gram(heads.source)), inverse(gram(heads.target)))

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield matching rows of `S_srcᵀ` `[rows, D_src]` and `S_tgtᵀ` `[rows, D_tgt]`."""
        for source, target in self.heads.chunks():
            yield unit_rows(source @ self.source), unit_rows(target @ self.target)


def unit(heads: Heads) -> Tensor:
    """Return `S_tgt S_srcᵀ`, the published map: cosine coefficients, recomposed."""
    cross = _empty(heads)
    for source, target in Frames.of(heads).chunks():
        cross.addmm_(target.T, source)
    return cross


def tight(heads: Heads) -> Tensor:
    """Return the map between whitened frames `(S Sᵀ)^(−1/2) S`; identity from a model to itself."""
    cross = _empty(heads)
    own_source = cross.new_zeros(cross.shape[1], cross.shape[1])
    own_target = cross.new_zeros(cross.shape[0], cross.shape[0])
    for source, target in Frames.of(heads).chunks():
        cross.addmm_(target.T, source)
        add_gram(own_source, source)
        add_gram(own_target, target)
    return spectral(mirrored(own_target), -0.5) @ cross @ spectral(mirrored(own_source), -0.5)


def dual(heads: Heads) -> Tensor:
    """Return `(S_tgt S_tgtᵀ)⁻¹ S_tgt S_srcᵀ`: the target state whose coefficients fit best."""
    cross = _empty(heads)
    own = cross.new_zeros(cross.shape[0], cross.shape[0])
    for source, target in Frames.of(heads).chunks():
        cross.addmm_(target.T, source)
        add_gram(own, target)
    return inverse(mirrored(own)) @ cross


def lens(heads: Heads) -> Tensor:
    """Return `W_tgt⁺ W_src`: the target state whose logit lens best matches the source's."""
    cross = _empty(heads)
    for source, target in heads.chunks():
        cross.addmm_(target.T, source)
    return inverse(gram(heads.target)) @ cross


MAPS: Mapping[str, Callable[[Heads], Tensor]] = {
    "unit": unit,
    "tight": tight,
    "dual": dual,
    "lens": lens,
}
"""Maps by the name used in recipes; all return fp64 `[D_tgt, D_src]`."""


def gram(head: Tensor) -> Tensor:
    """Return `WᵀW` of a head `[V, D]` in fp64, `[D, D]`."""
    total = head.new_zeros(head.shape[1], head.shape[1], dtype=torch.float64)
    for start in range(0, head.shape[0], CHUNK):
        add_gram(total, head[start : start + CHUNK].double())
    return mirrored(total)


def _empty(heads: Heads) -> Tensor:
    shape = heads.target.shape[1], heads.source.shape[1]
    return heads.source.new_zeros(shape, dtype=torch.float64)

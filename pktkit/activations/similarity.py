"""How alike two sets of states are: centred cosine, and centred kernel alignment (CKA).

Uncentred cosines of hidden states mostly measure the mean direction, which all tokens share, so
everything here is centred.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import attrs
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor

Key = TypeVar("Key", bound=Hashable)


def centred_cosine(states: Tensor, others: Tensor) -> float:
    """Return the mean cosine of paired states after each side's mean is taken off.

    Arguments:
        states, others: `[tokens, D]`; row i of both belongs to the same token.
    """
    left, right = states.double(), others.double()
    left, right = left - left.mean(dim=0), right - right.mean(dim=0)
    return float(functional.cosine_similarity(left, right, dim=-1).mean())


CONSTANT = 1e-20
"""States that vary by less than this share of their squared length only vary by rounding."""


def mean_cosines(
    batches: Callable[[], Iterable[Mapping[Key, tuple[Tensor, Tensor]]]], *, centred: bool = True
) -> dict[Key, float]:
    """Return `centred_cosine` of many pairs of states without holding more than a batch of them.

    Arguments:
        batches: gives, each time it is called, the same batches: by key, two tensors
            `[tokens, D]` whose rows belong together. Centring takes two passes.
        centred: take each side's mean over all batches off first.

    Returns:
        The mean cosine by key; NaN where it says nothing, because one side is zero (centred: the
        same for all tokens).
    """
    means = _means(batches()) if centred else {}
    sums: dict[Key, Tensor] = {}
    for batch in batches():
        for key, sides in batch.items():
            raw = [side.double() for side in sides]
            kept = [s - m for s, m in zip(raw, means[key], strict=True)] if centred else raw
            cosines = functional.cosine_similarity(kept[0], kept[1], dim=-1)
            squares = [side.square().sum() for side in (*kept, *raw)]
            now = torch.stack([torch.ones_like(cosines).sum(), cosines.sum(), *squares])
            sums[key] = sums[key] + now if key in sums else now
    return {key: _mean_cosine(*total.tolist()) for key, total in sums.items()}


def _mean_cosine(
    tokens: float, total: float, left: float, right: float, raw_left: float, raw_right: float
) -> float:
    varies = left > CONSTANT * raw_left and right > CONSTANT * raw_right
    return total / tokens if varies else math.nan


def _means(batches: Iterable[Mapping[Key, tuple[Tensor, Tensor]]]) -> dict[Key, list[Tensor]]:
    """Return the mean `[D]` of both sides of every pair, fp64."""
    sums: dict[Key, list[Tensor]] = {}
    counts: dict[Key, int] = {}
    for batch in batches:
        for key, sides in batch.items():
            now = [side.double().sum(dim=0) for side in sides]
            sums[key] = [a + b for a, b in zip(sums[key], now, strict=True)] if key in sums else now
            counts[key] = counts.get(key, 0) + len(sides[0])
    return {key: [side / max(1, counts[key]) for side in total] for key, total in sums.items()}


def linear_cka(states: Tensor, others: Tensor) -> float:
    """Return `‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖)` of centred states (Kornblith et al., arXiv 1905.00414).

    Arguments:
        states: `[tokens, D]`; others: `[tokens, E]`; widths may differ.

    Returns:
        0 to 1; 0 where one side is constant.
    """
    left, right = states.double(), others.double()
    left, right = left - left.mean(dim=0), right - right.mean(dim=0)
    norm = (left.T @ left).norm() * (right.T @ right).norm()
    return float((right.T @ left).norm() ** 2 / norm) if norm > 0 else 0.0


@attrs.define(eq=False)
class CkaMatrix:
    """CKA of every layer of one model with every layer of another, over minibatches.

    Averages the unbiased HSIC estimator over batches (Nguyen et al., arXiv 2010.15327), so that
    memory depends on the batch and not on the number of tokens, and so does no bias.

    Arguments:
        left, right: how many layers each side has.
    """

    left: int
    right: int
    _cross: Tensor = attrs.field(init=False)
    _own_left: Tensor = attrs.field(init=False)
    _own_right: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._cross = torch.zeros(self.left, self.right, dtype=torch.float64)
        self._own_left = torch.zeros(self.left, dtype=torch.float64)
        self._own_right = torch.zeros(self.right, dtype=torch.float64)

    def update(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> None:
        """Add one batch: per layer `[tokens, D]`, the same tokens everywhere, at least 4."""
        ours = torch.stack([_centred_kernel(states) for states in left])
        theirs = torch.stack([_centred_kernel(states) for states in right])
        tokens = ours.shape[1]
        scale = tokens * (tokens - 3)
        self._cross += (torch.einsum("aij,bij->ab", ours, theirs) / scale).cpu()
        self._own_left += (ours.square().sum(dim=(1, 2)) / scale).cpu()
        self._own_right += (theirs.square().sum(dim=(1, 2)) / scale).cpu()

    def values(self) -> Tensor:
        """Return CKA `[left, right]`, fp64; near 0 for unrelated layers, and 0 for constant ones.

        The estimator is unbiased, so that values slightly below 0 occur.
        """
        norm = (
            self._own_left.clamp(min=0).sqrt()[:, None]
            * self._own_right.clamp(min=0).sqrt()[None, :]
        )
        return torch.where(norm > 0, self._cross / norm.clamp(min=1e-300), torch.zeros(()).double())


def _centred_kernel(states: Tensor) -> Tensor:
    """Return the U-centred linear kernel `[tokens, tokens]` with a zero diagonal.

    The inner product of two such kernels over `n (n − 3)` is the unbiased HSIC estimator
    (Székely and Rizzo 2014; Song et al. 2012).
    """
    precise = states.double()
    tokens = precise.shape[0]
    if tokens < 4:
        raise ValueError(f"CKA needs at least 4 tokens in a batch, got {tokens}.")
    kernel = precise @ precise.T
    kernel.fill_diagonal_(0)
    rows = kernel.sum(dim=1, keepdim=True) / (tokens - 2)
    total = kernel.sum() / ((tokens - 1) * (tokens - 2))
    kernel = kernel - rows - rows.T + total
    return kernel.fill_diagonal_(0)

"""The Fisher-weighted layer term: a quadratic surrogate of a divergence between logit lenses.

With `z* = W h*` and `z = W h` through the target's LM head, `p = softmax(z*)` and `δ = z − z*`,
the second-order term of `KL(softmax z* ‖ softmax z)` is `½ δᵀ (diag p − p pᵀ) δ`, i.e. half the
variance of δ under p (arXiv 2510.24208, the realisation of its published version).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit_latent.terms import Distance

ENTRIES = 1 << 25
"""Entries of one `[tokens, V]` chunk: 128 MiB in fp32, of which four exist at a time."""


def fisher_distance(head: Tensor) -> Distance:
    """Return the distance through an LM head `[V, D]`, padded rows left out, which it reads anew
    at every call and never moves."""

    def distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return `½ mean (Σ p δ² − (Σ p δ)²)` over tokens, in nats."""
        shares = states.new_ones(states.shape[0]) if weights is None else weights
        value: Tensor = _HalfVariance.apply(
            states.float(), wanted.detach().float(), shares.detach().float(), head.detach()
        )
        return value

    return distance


class _HalfVariance(torch.autograd.Function):
    """The term with its gradient, `−` nothing of vocabulary size kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, wanted: Tensor, shares: Tensor, head: Tensor) -> Tensor:
        gradient = torch.empty_like(states)
        total = states.new_zeros(())
        tokens = states.shape[0]
        for rows in _chunks(tokens, head.shape[0]):
            predicted = _logits(wanted[rows], head).softmax(dim=1)
            # the difference of states first: equal states then differ by exactly nothing
            difference = _logits(states[rows] - wanted[rows], head)
            mean = (predicted * difference).sum(dim=1, keepdim=True)
            deviation = difference.sub_(mean)
            slope = predicted.mul_(deviation)
            share = shares[rows] / tokens
            total += 0.5 * (share * (slope * deviation).sum(dim=1)).sum()
            gradient[rows] = _through(slope, head) * share[:, None]
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None, None, None


def _chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, ENTRIES // vocabulary)
    for start in range(0, tokens, size):
        yield slice(start, start + size)


def _pieces(head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield fp32 slices of the head; a head in fp32 is one slice."""
    size = head.shape[0] if head.dtype == torch.float32 else max(1, ENTRIES // head.shape[1])
    for start in range(0, head.shape[0], size):
        rows = slice(start, start + size)
        yield rows, head[rows].float()


def _logits(states: Tensor, head: Tensor) -> Tensor:
    """Return `W h`, `[tokens, V]`."""
    logits = states.new_empty(states.shape[0], head.shape[0])
    for rows, piece in _pieces(head):
        logits[:, rows] = states @ piece.T
    return logits


def _through(slopes: Tensor, head: Tensor) -> Tensor:
    """Return `Wᵀ s`, `[tokens, D]`."""
    total = slopes.new_zeros(slopes.shape[0], head.shape[1])
    for rows, piece in _pieces(head):
        total += slopes[:, rows] @ piece
    return total

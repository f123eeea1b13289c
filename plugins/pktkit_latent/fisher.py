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

    from pktkit_latent.distances import Distance

ENTRIES = 1 << 25
"""Entries of one `[tokens, V]` chunk: 128 MiB in fp32, of which four exist at a time."""


def fisher_distance(head: Tensor) -> Distance:
    """Return the distance through an LM head `[V, D]`, padded rows left out, which it reads anew
    at every call and never moves."""

    def distance(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return `½ mean (Σ p δ² − (Σ p δ)²)` over tokens, in nats."""
        tokens, width = states.shape[-2:]
        shares = states.new_ones(tokens) if weights is None else weights
        value: Tensor = _HalfVariance.apply(
            states.float().reshape(-1, width),
            wanted.detach().float().reshape(-1, width),
            shares.detach().float().repeat(states.numel() // (tokens * width)),
            head.detach(),
        )
        return value

    return distance


def scaled_fisher_distance(head: Tensor) -> Distance:
    """Return `fisher_distance` of aligned states that are first brought to the states' length.

    A map from normalised states decides on a direction; the length of what it returns says
    nothing, and where it is far from the target's, it fills δ and flattens p. Here each block's
    aligned states are multiplied by one number, the ratio of both sides' root mean squares over
    the batch, which carries no gradient. Not published.
    """
    distance = fisher_distance(head)

    def scaled(states: Tensor, wanted: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the distance to the scaled states, in nats."""
        length, given = (
            torch.linalg.vector_norm(side.detach().float(), dim=(-2, -1), keepdim=True)
            for side in (states, wanted)
        )
        ratio = torch.where(given > 0, length / given, torch.ones_like(given))
        return distance(states, wanted.float() * ratio, weights)

    return scaled


class _HalfVariance(torch.autograd.Function):
    """The term with its gradient; nothing of vocabulary size is kept for the backward pass."""

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
    """Yield fp32 slices of the head; a head in fp32 is one slice, itself."""
    size = head.shape[0] if head.dtype == torch.float32 else max(1, ENTRIES // head.shape[1])
    for start in range(0, head.shape[0], size):
        rows = slice(start, start + size)
        yield rows, head[rows].float()


def _logits(states: Tensor, head: Tensor) -> Tensor:
    """Return `W h`, `[tokens, V]`."""
    if head.dtype == torch.float32:
        return states @ head.T
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

"""Drawing tokens: temperature, nucleus, and a random stream of its own for every answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
from attrs import validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@attrs.frozen
class Sampling:
    """How tokens are drawn.

    Arguments:
        temperature: divides the logits before a token is drawn; 0 takes the likeliest token.
        top_p: draw among the likeliest tokens whose probabilities sum to this (nucleus).
        seed: of the draws. A prompt's draws depend on the seed, on its tokens and on how often
            the same prompt stood before it, not on the batch: the same prompt given n times gets
            n different answers, and the same n in any company.
    """

    temperature: float = attrs.field(default=0.0, validator=validators.ge(0))
    top_p: float = attrs.field(
        default=1.0, validator=validators.and_(validators.gt(0), validators.le(1))
    )
    seed: int = 0

    def streams(self, rows: Sequence[Sequence[int]]) -> list[int]:
        """Return the seed of the random stream of every row of token ids."""
        seen: Counter[tuple[int, ...]] = Counter()
        found = []
        for row in map(tuple, rows):
            text = f"{self.seed}|{seen[row]}|{','.join(map(str, row))}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
            found.append(number >> 1)
            seen[row] += 1
        return found

    def picking(self, streams: Sequence[int]) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """Return what picks the next tokens of a batch.

        Arguments:
            streams: of the rows of the batch.

        Returns:
            A function from logits `[rows, V]`, and which rows of the batch they are, to ids
            `[rows]`.
        """
        import torch

        if self.temperature == 0:
            return lambda logits, rows: logits.argmax(-1)
        drawing = [torch.Generator().manual_seed(stream) for stream in streams]
        return lambda logits, rows: drawn(logits, self, [drawing[row] for row in rows])


GREEDY = Sampling()


def drawn(logits: Tensor, sampling: Sampling, drawing: Sequence[torch.Generator]) -> Tensor:
    """Draw the next token of every row.

    Arguments:
        logits: `[rows, V]`.
        sampling: with a temperature above 0.
        drawing: one generator per row, on the CPU.

    Returns:
        Token ids `[rows]`.
    """
    import torch

    probabilities = (logits.double() / sampling.temperature).softmax(-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    # The nucleus is the shortest head of the order that reaches top_p: at least one token.
    inside = (cumulative - ordered) < sampling.top_p
    mass = (ordered * inside).cumsum(-1)
    draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in drawing])
    wanted = draws.to(logits.device)[:, None] * mass[:, -1:]
    place = torch.searchsorted(mass, wanted, right=True).clamp(max=inside.sum(-1, True) - 1)
    return tokens.gather(-1, place)[:, 0]

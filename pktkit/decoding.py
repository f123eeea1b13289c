"""How an answer is written: greedily or sampled, where it stops, whether it is trimmed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.converters import as_tuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STOP_WINDOW = 24
"""Tokens at an answer's end in which a stop text is looked for after each token."""


@attrs.frozen
class Decoding:
    """How answers are written.

    Arguments:
        temperature: divides the logits before a token is drawn; 0 takes the likeliest token.
        top_p: draw among the likeliest tokens whose probabilities sum to this (nucleus).
        seed: of the draws. A prompt's draws depend on the seed, on its text and on how often the
            same prompt stood before it, not on the batch: the same prompt given n times gets n
            different answers, and the same n in any company.
        stops: texts that end an answer; the answer ends before the first of them.
        trim: whether outer white space is removed. Code that continues an indented body keeps it.
    """

    temperature: float = attrs.field(default=0.0, validator=validators.ge(0))
    top_p: float = attrs.field(
        default=1.0, validator=validators.and_(validators.gt(0), validators.le(1))
    )
    seed: int = 0
    stops: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    trim: bool = True

    def cut(self, text: str) -> str:
        """Return an answer up to the first stop, trimmed where asked for."""
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        return text.strip() if self.trim else text

    def stopped(self, tail: str) -> bool:
        """Tell whether a stop is in the last tokens of an answer."""
        return any(stop in tail for stop in self.stops)


GREEDY = Decoding()


def generators(rows: Sequence[Sequence[int]], seed: int) -> list[torch.Generator]:
    """Return a random generator for every row of token ids, see `Decoding.seed`."""
    import torch

    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for row in map(tuple, rows):
        text = f"{seed}|{seen[row]}|{','.join(map(str, row))}"
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        found.append(torch.Generator().manual_seed(number >> 1))
        seen[row] += 1
    return found


def next_tokens(logits: Tensor, decoding: Decoding, drawing: Sequence[torch.Generator]) -> Tensor:
    """Choose the next token of every row.

    Arguments:
        logits: `[rows, vocabulary]`.
        decoding: how.
        drawing: one generator per row; not read at temperature 0.

    Returns:
        Token ids `[rows]`.
    """
    import torch

    if decoding.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.double() / decoding.temperature).softmax(-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    # The nucleus is the shortest head of the order that reaches top_p: at least one token.
    inside = (cumulative - ordered) < decoding.top_p
    mass = (ordered * inside).cumsum(-1)
    draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in drawing])
    wanted = draws.to(logits.device)[:, None] * mass[:, -1:]
    place = torch.searchsorted(mass, wanted, right=True).clamp(max=inside.sum(-1, True) - 1)
    return tokens.gather(-1, place)[:, 0]

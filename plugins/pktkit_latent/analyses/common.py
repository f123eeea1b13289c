"""What several analyses share: which positions they look at, and how they write numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.analysis import AnalysisContext
    from pktkit.encoding import EncodedSplit
    from pktkit.probe import StateReader

COLUMNS = 6
"""Blocks shown in a table at most."""


def answer_positions(split: EncodedSplit, rows: Sequence[int]) -> Tensor:
    """Return which predicting positions of the rows are about the answer, `[tokens]` bool.

    The position that predicts the end of the sequence is about stopping: there, states of any
    two items are alike. Where a split has no other positions, they all count.
    """
    items = split.items
    if not any(item.supervised_count > item.ends for item in items):
        return torch.ones(sum(items[row].supervised_count for row in rows), dtype=torch.bool)
    parts = []
    for row in rows:
        part = torch.ones(items[row].supervised_count, dtype=torch.bool)
        if items[row].ends:
            part[-1] = False
        parts.append(part)
    return torch.cat(parts)


def token_chunks(
    context: AnalysisContext, readers: Sequence[StateReader], size: int
) -> Iterator[list[list[Tensor]]]:
    """Yield answer positions `size` at a time: by reader, by block, `[size, D]`, on one device.

    Chunks are equally large, because averages over them give each the same weight; what is left
    over at the end is yielded only if there was no whole chunk.
    """
    split = context.probe.encoded(context.split)
    device = context.pair.target.anatomy.embedding.weight.device
    held: list[list[Tensor]] = []
    whole = False
    for rows in context.batches():
        kept = answer_positions(split, rows).to(device)
        read = [[s.to(device)[kept] for s in r.read(rows).values()] for r in readers]
        held = [
            [torch.cat(pair) for pair in zip(old, new, strict=True)]
            for old, new in zip(held or [[s[:0] for s in r] for r in read], read, strict=True)
        ]
        while len(held[0][0]) >= size:
            whole = True
            yield [[s[:size] for s in states] for states in held]
            held = [[s[size:] for s in states] for states in held]
    if not whole:
        yield held


def extremes(values: Iterable[float]) -> str:
    """Write the smallest and the largest of the finite values."""
    finite = [value for value in values if math.isfinite(value)]
    return f"{number(min(finite))} to {number(max(finite))}" if finite else "none"


def titled(role: str, name: str) -> str:
    """Name a model by its role, and by its own name where that says more."""
    return role if name == role else f"{role}: {name}"


def spread(count: int, most: int = COLUMNS) -> list[int]:
    """Return at most `most` of the first `count` indices, evenly spread, both ends included."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def number(value: float) -> str:
    """Write a cosine or a CKA with two decimals; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")

"""The best monotone assignment of source blocks to target blocks, by dynamic programming."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pktkit.errors import UsageError


def monotone_assignment(affinity: ArrayLike, *, strict: bool = False) -> tuple[int, ...]:
    """Return for each target block one source block, never shallower than the one before.

    Maximises the sum of affinities exactly, in `O(L_src · L_tgt)`. Of assignments with equal sums
    the one with the lower source block wins, decided from the last target block backwards.

    Arguments:
        affinity: `[L_src, L_tgt]`, finite, any scale.
        strict: every source block serves at most one target block.

    Returns:
        `L_tgt` source blocks, 0-based.

    Raises:
        UsageError: not a matrix, not finite, or `strict` with fewer source than target blocks.
    """
    scores = np.asarray(affinity, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise UsageError(f"affinity must be a finite [source, target] matrix, got {scores.shape}.")
    source_blocks, target_blocks = scores.shape
    if strict and source_blocks < target_blocks:
        raise UsageError(
            f"{source_blocks} source blocks cannot strictly increase over {target_blocks} target "
            "blocks."
        )
    # totals[t][s]: the best sum of target blocks 0..t when block t receives source block s.
    totals = [scores[:, 0]]
    for target in range(1, target_blocks):
        reachable = np.maximum.accumulate(totals[-1])
        if strict:
            reachable = np.concatenate([[-np.inf], reachable[:-1]])
        totals.append(reachable + scores[:, target])
    chosen = [int(totals[-1].argmax())]
    for before in reversed(totals[:-1]):
        end = chosen[-1] if strict else chosen[-1] + 1
        chosen.append(int(before[:end].argmax()))
    return tuple(reversed(chosen))

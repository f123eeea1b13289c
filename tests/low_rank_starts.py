"""Alignments of low-rank updates and what the target computes at step 0, for tests."""

from __future__ import annotations

import torch
from tiny_transfers import layer_map, logits, snapshot

from pktkit.journal import Journal
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.training.adapters import LoraShape, lora
from pktkit.values import Alignment
from pktkit_seeking.aligner import SensitiveSubmatrix, SubmatrixOptions
from pktkit_seeking.injector import begin, module_starts


def aligned(pair: ModelPair, probe: Probe, sources=(0, 2, 3), **options) -> Alignment:
    """Extract from the given source blocks, at rank 4 unless told otherwise."""
    return SensitiveSubmatrix(SubmatrixOptions(**({"rank": 4} | options))).align(
        pair, layer_map(pair, *sources), probe
    )


def best_of_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the best approximation of a rank, computed apart from the code under test."""
    u, sigma, vh = torch.linalg.svd(matrix.double())
    return (u[:, :rank] * sigma[:rank] @ vh[:rank]).float()


def begun(pair: ModelPair, alignment: Alignment, *, subtract=True, alpha=8.0, divide=False):
    """Attach an adapter at its start, merge it without a step, and put the target back.

    Returns:
        the relative starts, the logits with the adapter attached and merged, the merged weights.
    """
    rank = max(update.b.shape[1] for update in alignment.low_rank)
    starts = module_starts(pair.target.anatomy, alignment.low_rank)
    if divide:
        starts = [start.divided(alpha / rank) for start in starts]
    kinds = tuple(dict.fromkeys(update.projection for update in alignment.low_rank))
    journal = Journal(pair.target)
    with journal:
        shape = LoraShape(rank=rank, alpha=alpha, kinds=kinds)
        ranks = {start.module: start.rank for start in starts}
        with lora(pair.target, journal, shape, ranks=ranks) as adapter:
            relative = begin(adapter, starts, journal, subtract=subtract)
            started = logits(adapter.model)
        merged, weights = logits(pair.target), snapshot(pair.target)
    journal.rollback()
    return relative, started, merged, weights


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference over the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())

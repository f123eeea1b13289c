"""Accuracy and time of the semantic map at V = 32,000, 2048 → 1024, beside `torch.linalg.pinv`.

Run: python benchmarks/semantic_map.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from pktkit_latent.maps import Heads, unit

TOKENS, D_SOURCE, D_TARGET = 32_000, 2048, 1024
DECADES = 2.5
"""Spread of the heads' singular values, as seen in trained heads."""


def head(width: int, seed: int) -> torch.Tensor:
    """Return a synthetic bf16 head whose columns' scales span `DECADES`."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -DECADES, width)
    return (torch.randn(TOKENS, width, generator=generator) * scales).bfloat16()


def by_pinv(heads: Heads, dtype: torch.dtype) -> torch.Tensor:
    """Return the map through explicit pseudo-inverses in one precision."""
    bases = [torch.linalg.pinv(w.to(dtype)) for w in (heads.source, heads.target)]
    source, target = (torch.nn.functional.normalize(basis, dim=0) for basis in bases)
    return target @ source.T


def timed(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Return a result and the seconds it took."""
    start = time.perf_counter()
    return compute(), time.perf_counter() - start


def main() -> None:
    """Print one line per way of computing the map."""
    heads = Heads(head(D_SOURCE, 0), head(D_TARGET, 1))
    reference, seconds_reference = timed(lambda: by_pinv(heads, torch.float64))
    ours, seconds_ours = timed(lambda: unit(heads))
    single, seconds_single = timed(lambda: by_pinv(heads, torch.float32))
    print(f"V = {TOKENS}, {D_SOURCE} -> {D_TARGET}, {torch.get_num_threads()} threads")
    for name, matrix, seconds in (
        ("streamed fp64 Gram (pktkit)", ours, seconds_ours),
        ("torch.linalg.pinv fp64", reference, seconds_reference),
        ("torch.linalg.pinv fp32, default rtol", single, seconds_single),
    ):
        error = float((matrix.double() - reference).norm() / reference.norm())
        print(f"{name:<38} {seconds:8.1f} s  x{seconds / seconds_ours:5.1f}  error {error:.1e}")
    agreement = float((ours - reference).norm() / reference.norm())
    if agreement > 1e-6:
        raise SystemExit(f"disagrees with the fp64 reference: {agreement:.1e} > 1e-6")


if __name__ == "__main__":
    main()

"""Accuracy and time of the semantic map at V = 32,000, 2048 → 1024, beside `torch.linalg.pinv`.

Runs on CUDA where there is one.

Run: python benchmarks/semantic_map.py [--tokens 32000 --source 2048 --target 1024]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from pktkit_latent.maps import MAPS, Heads, unit

DECADES = 2.5
"""Spread of the heads' singular values, as seen in trained heads."""

REQUIRED_SPEED = 1.5
REQUIRED_ERROR = 1e-6


def head(tokens: int, width: int, seed: int, device: str) -> torch.Tensor:
    """Return a synthetic bf16 head whose columns' scales span `DECADES`."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -DECADES, width)
    return (torch.randn(tokens, width, generator=generator) * scales).bfloat16().to(device)


def by_pinv(heads: Heads, dtype: torch.dtype) -> torch.Tensor:
    """Return the map through explicit pseudo-inverses in one precision."""
    bases = [torch.linalg.pinv(w.to(dtype)) for w in (heads.source, heads.target)]
    source, target = (torch.nn.functional.normalize(basis, dim=0) for basis in bases)
    return target @ source.T


def timed(compute: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Return a result and the seconds it took, the device's queue included."""
    _synchronise()
    start = time.perf_counter()
    result = compute()
    _synchronise()
    return result, time.perf_counter() - start


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> None:
    """Print one line per way of computing the map, and whether ours holds what it promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tokens", 32_000), ("source", 2048), ("target", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    heads = Heads(
        head(given.tokens, given.source, 0, device), head(given.tokens, given.target, 1, device)
    )
    unit(Heads(heads.source[:100, :8], heads.target[:100, :8]))  # libraries start up once
    rows = {"unit (pktkit)": timed(lambda: unit(heads))}
    reference, seconds_reference = timed(lambda: by_pinv(heads, torch.float64))
    rows["unit, torch.linalg.pinv fp64"] = reference, seconds_reference
    rows["unit, torch.linalg.pinv fp32"] = timed(lambda: by_pinv(heads, torch.float32))
    print(
        f"V = {given.tokens}, {given.source} -> {given.target}, {device}, "
        f"{torch.get_num_threads()} threads"
    )
    for name, (matrix, seconds) in rows.items():
        error = float((matrix.double() - reference).norm() / reference.norm())
        print(f"{name:<30} {seconds:7.2f} s   relative error {error:.1e}")
    for name in ("tight", "dual", "lens"):
        print(f"{name + ' (pktkit)':<30} {timed(lambda name=name: MAPS[name](heads))[1]:7.2f} s")
    ours, seconds_ours = rows["unit (pktkit)"]
    ratio = seconds_reference / seconds_ours
    agreement = float((ours - reference).norm() / reference.norm())
    print(
        f"ours {seconds_ours:.2f} s, pinv fp64 {seconds_reference:.2f} s: {ratio:.2f} times faster"
    )
    if agreement > REQUIRED_ERROR:
        raise SystemExit(f"disagrees with the fp64 reference: {agreement:.1e} > {REQUIRED_ERROR}")
    if ratio < REQUIRED_SPEED:
        raise SystemExit(f"only {ratio:.2f} times faster than pinv, expected {REQUIRED_SPEED}")


if __name__ == "__main__":
    main()

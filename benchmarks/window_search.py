"""Time of the window search on a 13B-sized matrix, against a loop over positions.

Run `python benchmarks/window_search.py`; takes a minute and about 2 GB of memory. The loop
evaluates every position in Python by four look-ups in a summed-area table, as the public code of
arXiv 2310.11451 does. It is timed on a sample of positions and extrapolated to all of them; once
on a torch table (as published) and once on a NumPy table (faster look-ups). What the loop costs
besides, building its table, is stated apart. The search needs no table.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np
import torch

from pktkit_seeking.window import best_window


def loop_rate(table: Any, shape: tuple[int, int], positions: int) -> float:
    """Return seconds per position of a Python loop over a summed-area table."""
    height, width = shape
    columns = table.shape[1] - width
    best, started = -1.0, time.perf_counter()
    for position in range(positions):
        i, j = divmod(position, columns)
        total = (
            table[i + height, j + width] - table[i, j + width] - table[i + height, j] + table[i, j]
        )
        if total > best:
            best = total
    return (time.perf_counter() - started) / positions


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, nargs=2, default=(5120, 13824))
    parser.add_argument("--window", type=int, nargs=2, default=(4096, 11008))
    parser.add_argument("--sample", type=int, default=100_000, help="positions of the loop")
    options = parser.parse_args()
    scores = torch.rand(*options.matrix, generator=torch.Generator().manual_seed(0))
    shape = tuple(options.window)
    positions = (options.matrix[0] - shape[0] + 1) * (options.matrix[1] - shape[1] + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    window = best_window(scores, shape)
    searching = time.perf_counter() - started
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    started = time.perf_counter()
    table = np.zeros((options.matrix[0] + 1, options.matrix[1] + 1))
    np.cumsum(np.cumsum(scores.numpy(), axis=0, dtype=np.float64), axis=1, out=table[1:, 1:])
    building = time.perf_counter() - started
    sample = min(options.sample, positions)
    print(f"matrix {options.matrix[0]}×{options.matrix[1]}, window {shape[0]}×{shape[1]}")
    print(f"window at ({window.row}, {window.column}) of {positions:,} positions")
    print(f"search           {searching:9.3f} s all told, {added:.0f} MiB beside the matrix")
    print(f"table            {building:9.3f} s, {table.nbytes / 2**20:.0f} MiB")
    for name, looked_up in (("torch", torch.from_numpy(table)), ("NumPy", table)):
        rate = loop_rate(looked_up, shape, sample)
        print(
            f"loop over {name}  {rate * positions:9.3f} s, extrapolated from {sample:,} positions "
            f"at {rate * 1e6:.2f} µs; {rate * positions / searching:.0f} × the search, "
            f"{(rate * positions + building) / searching:.0f} × with its table"
        )


if __name__ == "__main__":
    main()

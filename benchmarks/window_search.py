"""Time of the window search on a 13B-sized matrix, against a loop over positions.

Run `python benchmarks/window_search.py`; takes a minute and about 1.5 GB of memory. The loop is
the obvious one: four table look-ups per position in Python, timed on a sample of positions.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch

from pktkit_seeking.window import best_window, summed_area


def loop_rate(table: np.ndarray, shape: tuple[int, int], positions: int) -> float:
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
    started = time.perf_counter()
    window = best_window(scores, shape)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    started = time.perf_counter()
    summed_area(scores)
    building = time.perf_counter() - started
    searching = max(seconds - building, 1e-9)
    table = np.zeros((options.matrix[0] + 1, options.matrix[1] + 1))
    np.cumsum(np.cumsum(scores.numpy(), axis=0), axis=1, out=table[1:, 1:])
    per_position = loop_rate(table, shape, min(options.sample, positions))
    print(f"matrix {options.matrix[0]}×{options.matrix[1]}, window {shape[0]}×{shape[1]}")
    print(f"window at ({window.row}, {window.column}) of {positions:,} positions")
    print(f"table      {building:9.3f} s")
    print(f"search     {searching:9.3f} s, peak memory {peak:.2f} GiB")
    print(f"loop       {per_position * positions:9.3f} s at {per_position * 1e6:.2f} µs a position")
    print(f"ratio      {per_position * positions / searching:9.1f} × (search against loop)")


if __name__ == "__main__":
    main()

"""Time of the window search on a 13B-sized matrix, against a loop over positions.

Run `python benchmarks/window_search.py`; takes half a minute and about 2 GB of memory. The loop
evaluates every position in Python by four look-ups in an fp64 summed-area table, as the public
code of arXiv 2310.11451 does. It is timed on a sample of positions and extrapolated to all of
them; on a torch table (as published) and on a NumPy table (faster look-ups). What the loop costs
besides, building its table, is stated apart. The search needs no table. All take turns, round
after round, and the best time of each counts, so that other work on the machine hurts none more.

The window is compared with the argmax over the whole table. Beside it stands the integer search,
which decides where fp64 sums cannot, as on a matrix of equal scores.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pktkit_seeking.search import first_of_largest
from pktkit_seeking.window import best_window, finite_total


def loop(table: Any, shape: tuple[int, int], positions: int) -> None:
    """Evaluate leading positions in Python over a summed-area table."""
    height, width = shape
    columns = table.shape[1] - width
    best = -1.0
    for position in range(positions):
        i, j = divmod(position, columns)
        total = (
            table[i + height, j + width] - table[i, j + width] - table[i + height, j] + table[i, j]
        )
        if total > best:
            best = total


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def summed_area(scores: torch.Tensor) -> np.ndarray:
    """Return the fp64 table, with a row and a column of zeros in front."""
    table = np.zeros((scores.shape[0] + 1, scores.shape[1] + 1))
    np.cumsum(scores.numpy(), axis=0, dtype=np.float64, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    return table


def argmax(table: np.ndarray, shape: tuple[int, int]) -> tuple[int, int]:
    """Return where the largest window is, by four shifted slices of the table."""
    height, width = shape
    sums = table[height:, width:] - table[:-height, width:] - table[height:, :-width]
    sums += table[:-height, :-width]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return row, column


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matrix", type=int, nargs=2, default=(5120, 13824))
    parser.add_argument("--window", type=int, nargs=2, default=(4096, 11008))
    parser.add_argument("--sample", type=int, default=50_000, help="positions of the loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the search")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scores = torch.rand(*options.matrix, generator=torch.Generator().manual_seed(0))
    shape = tuple(options.window)
    positions = (options.matrix[0] - shape[0] + 1) * (options.matrix[1] - shape[1] + 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    window = best_window(scores, shape)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    started = time.perf_counter()
    table = summed_area(scores)
    building = time.perf_counter() - started
    assert (window.row, window.column) == argmax(table, shape)
    sample, total = min(options.sample, positions), finite_total(scores)
    calls: dict[str, Callable[[], Any]] = {
        "search": lambda: best_window(scores, shape),
        "torch": lambda: loop(torch.from_numpy(table), shape, sample),
        "NumPy": lambda: loop(table, shape, sample),
        "reading": lambda: scores.sum(),
        "integers": lambda: first_of_largest(scores, shape, (1, 1), total),
    }
    rounds = [{name: timed(call) for name, call in calls.items()} for _ in range(options.rounds)]
    best = {name: min(each[name] for each in rounds) for name in calls}
    search = best["search"]
    print(f"matrix {options.matrix[0]}×{options.matrix[1]}, window {shape[0]}×{shape[1]}")
    print(f"window at ({window.row}, {window.column}) of {positions:,} positions, as the table's")
    print(f"best of {options.rounds} rounds, {options.threads} threads, {added:.0f} MiB added")
    print(f"search           {search:9.3f} s all told")
    print(f"  adding all up  {best['reading']:9.3f} s, a single pass in single precision")
    print(f"integer search   {best['integers']:9.3f} s")
    print(f"table            {building:9.3f} s, {table.nbytes / 2**20:.0f} MiB")
    for name in ("torch", "NumPy"):
        whole = best[name] * positions / sample
        print(
            f"loop over {name}  {whole:9.3f} s, extrapolated from {sample:,} positions "
            f"at {best[name] / sample * 1e6:.2f} µs; {whole / search:.0f} × the search, "
            f"{(whole + building) / search:.0f} × with its table"
        )


if __name__ == "__main__":
    main()

"""Time and memory of fitting maps for all layer pairs, on random states of a mid-size pair.

States are drawn anew whenever they are read, as if they came from disk, so that the memory printed
is what fitting needs: accumulators, one chunk of states, and the maps.

Run: python benchmarks/fit_maps.py [--tokens 100000 --source 1536 --target 896 --blocks 24]
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import torch

from pktkit.activations.moments import MAX_BYTES, stream_moments
from pktkit.activations.paired import CHUNK_TOKENS, States
from pktkit.state_maps import AffineMap
from pktkit.values import LayerLink, LayerMap
from pktkit_latent.aligners.procrustes import procrustes_map
from pktkit_latent.aligners.ridge import PENALTY, ridge_map


class DrawnStates:
    """Stands in for `PairedStates`: random fp32 states, the same in every pass."""

    split = "drawn"

    def __init__(self, tokens: int, source: int, target: int) -> None:
        self.tokens, self.source, self.target = tokens, source, target
        models = [SimpleNamespace(anatomy=SimpleNamespace(width=w)) for w in (source, target)]
        self.probe = SimpleNamespace(pair=SimpleNamespace(source=models[0], target=models[1]))
        self.seconds = 0.0

    def chunks(self, layer_map: LayerMap) -> Iterator[tuple[States, States]]:
        """Yield chunks of both sides by target block."""
        blocks = [link.target for link in layer_map.links]
        for start in range(0, self.tokens, CHUNK_TOKENS):
            began = time.perf_counter()
            count = min(CHUNK_TOKENS, self.tokens - start)
            generator = torch.Generator().manual_seed(start)
            common = torch.randn(count, self.source, generator=generator)
            ours = {block: common + 0.01 * block for block in blocks}
            theirs = {block: common[:, : self.target] * (1 + block) for block in blocks}
            self.seconds += time.perf_counter() - began
            yield ours, theirs


class PeakMemory:
    """Samples this process's resident memory, because torch's is not seen by `tracemalloc`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def extra(self) -> float:
        """Most memory beyond the start, in GiB."""
        return (self._peak - self._start) / 2**30

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)


def fitted(method: str, states: DrawnStates, links: LayerMap, max_bytes: int) -> list[AffineMap]:
    """Fit one map per link, as the aligner does."""
    pairs = stream_moments(states, links, source=True, max_bytes=max_bytes)  # type: ignore[arg-type]
    if method == "ridge":
        return [ridge_map(moments, PENALTY) for _, moments in pairs]
    return [procrustes_map(moments, "fitted")[0] for _, moments in pairs]


def main() -> None:
    """Print one line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = {"tokens": 100_000, "source": 1536, "target": 896, "blocks": 24, "max-bytes": MAX_BYTES}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--methods", nargs="+", default=["ridge", "procrustes"])
    given = parser.parse_args()
    links = LayerMap(
        [LayerLink(block, (block,)) for block in range(given.blocks)],
        given.blocks,
        given.blocks,
        "one to one",
    )
    print(
        f"{given.tokens} tokens, {given.source} -> {given.target}, {given.blocks} blocks, "
        f"max_bytes {given.max_bytes / 2**30:.2f} GiB, {torch.get_num_threads()} threads"
    )
    for method in given.methods:
        states = DrawnStates(given.tokens, given.source, given.target)
        start, start_cpu = time.perf_counter(), time.process_time()
        with PeakMemory() as memory:
            maps = fitted(method, states, links, given.max_bytes)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        print(
            f"{method:<12} {len(maps)} maps in {seconds:7.1f} s ({cpu_seconds:.1f} s CPU), "
            f"{states.seconds:.1f} s of them drawing states; {memory.extra:.2f} GiB more at most",
            flush=True,
        )


if __name__ == "__main__":
    main()

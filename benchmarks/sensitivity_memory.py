"""Memory of the sensitivity pass against the weights of the model it differentiates.

Run `python benchmarks/sensitivity_memory.py`; Linux only, takes a minute and about 3 GB. The model
is random (Llama, 171 M parameters by default), two rows of 64 tokens. Every way runs in a process
of its own. Resident memory is sampled every few milliseconds; pages mapped from a file are counted
apart, since the system drops them when memory runs short.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch

from pktkit.encoding import EncodedItem, EncodedSplit
from pktkit.probe.passes import sensitivity_pass, sensitivity_shapes
from pktkit.probe.scratch import zeros
from pktkit.testing import tiny_loaded

GIB = 2**30


def resident() -> tuple[int, int]:
    """Return bytes of anonymous and of file-backed resident memory."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kib = {name: int(value.split()[0]) for name, value in fields.items() if name.startswith("Rss")}
    return kib["RssAnon"] * 1024, (kib["RssFile"] + kib["RssShmem"]) * 1024


class Peak(threading.Thread):
    """Samples resident memory until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.before = self.anonymous, self.mapped = resident()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Keep the largest values seen."""
        while not self._stop_asked.wait(0.005):
            anonymous, mapped = resident()
            self.anonymous, self.mapped = max(self.anonymous, anonymous), max(self.mapped, mapped)

    def above_start(self) -> tuple[int, int]:
        """Stop, and return what was added to each at the peak."""
        self._stop_asked.set()
        self.join()
        return self.anonymous - self.before[0], self.mapped - self.before[1]


def whole_gradient(model, split: EncodedSplit, totals: dict[str, torch.Tensor]) -> None:
    """Add the same sums the plain way: the model's whole gradient first, then the products."""
    network = model.model.requires_grad_(True)
    for item in split.items:
        ids = torch.tensor([item.input_ids])
        network(input_ids=ids, labels=ids).loss.backward()
        for name, parameter in network.named_parameters():
            totals[name] += (parameter.detach() * parameter.grad).abs()
        network.zero_grad(set_to_none=True)
    network.requires_grad_(False)


WAYS = ("disk", "memory", "whole-gradient")


def measure(way: str, width: int, blocks: int, length: int) -> None:
    """Take the sums one way, and print what it added to the memory of the weights."""
    model = tiny_loaded(
        "llama",
        width=width,
        blocks=blocks,
        heads=16,
        kv_heads=16,
        ffn=width * 11 // 4,
        vocab=8000,
        max_position_embeddings=length,
    )
    model.model.requires_grad_(False)
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    rows = torch.randint(4, 8000, (2, length), generator=torch.Generator().manual_seed(0))
    items = tuple(
        EncodedItem(f"r{i}", tuple(row.tolist()), length // 2, ends=False)
        for i, row in enumerate(rows)
    )
    split = EncodedSplit("extract", items)
    take = whole_gradient if way == "whole-gradient" else sensitivity_pass
    with tempfile.TemporaryDirectory() as directory:
        peak = Peak()
        peak.start()
        totals = zeros(sensitivity_shapes(model), Path(directory) if way == "disk" else None)
        take(model, split, totals)
        anonymous, mapped = (added / weights for added in peak.above_start())
    print(
        f"{way:15s} weights {weights / GIB:.2f} GiB; at the peak beside them, in their multiples: "
        f"{anonymous:.2f} memory, {mapped:.2f} mapped from disk",
        flush=True,
    )


def main() -> None:
    """Measure every way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--length", type=int, default=64, help="tokens per row")
    parser.add_argument("--way", choices=WAYS, help="only this one, in this process")
    options = parser.parse_args()
    if options.way:
        measure(options.way, options.width, options.blocks, options.length)
        return
    for way in WAYS:
        subprocess.run([sys.executable, *sys.argv, "--way", way], check=True)


if __name__ == "__main__":
    main()

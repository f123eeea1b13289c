"""Memory of the sensitivity pass against the weights of the model it differentiates.

Run `python benchmarks/sensitivity_memory.py`; Linux only, takes a minute and about 3 GB. The model is
random (Llama, 171 M parameters by default), three rows of 256 tokens. Resident memory is sampled
every few milliseconds; pages mapped from a file are counted apart, since the system drops them
when memory runs short.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--length", type=int, default=256, help="tokens per row")
    options = parser.parse_args()
    model = tiny_loaded(
        "llama",
        width=options.width,
        blocks=options.blocks,
        heads=16,
        kv_heads=16,
        ffn=options.width * 11 // 4,
        vocab=8000,
        max_position_embeddings=options.length,
    )
    model.model.requires_grad_(False)
    shapes = sensitivity_shapes(model)
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    rows = torch.randint(4, 8000, (3, options.length), generator=torch.Generator().manual_seed(0))
    items = tuple(
        EncodedItem(f"r{i}", tuple(row.tolist()), options.length // 2, ends=False)
        for i, row in enumerate(rows)
    )
    split = EncodedSplit("extract", items)
    print(f"weights {weights / GIB:.2f} GiB; at the peak above them, in multiples of the weights:")
    with tempfile.TemporaryDirectory() as directory:
        for label, place, take in (
            ("freed as summed, sums on disk", Path(directory), sensitivity_pass),
            ("freed as summed, sums in memory", None, sensitivity_pass),
            ("whole gradient, sums in memory", None, whole_gradient),
        ):
            peak = Peak()
            peak.start()
            totals = zeros(shapes, place)
            take(model, split, totals)
            anonymous, mapped = peak.above_start()
            del totals
            print(
                f"{label:33s} {anonymous / weights:5.2f} memory, {mapped / weights:5.2f} mapped, "
                f"with the weights {1 + (anonymous + mapped) / weights:.2f}"
            )


if __name__ == "__main__":
    main()

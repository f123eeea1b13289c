"""The memory estimate of `pktkit plan` against measured peaks.

Each configuration runs in a fresh process, whose peak is what the system counted
(`ru_maxrss`). Prints estimate, peak and their ratio; ends with 1 if one is off by more than 25 %.

    python benchmarks/memory_estimate.py            # all
    python benchmarks/memory_estimate.py mid-fp32   # those whose name contains a word
    python benchmarks/memory_estimate.py --pair pair/source pair/target
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

TOLERANCE = 0.25
WIDE = {"blocks": 12, "width": 512, "heads": 8, "ffn": 1408}
NARROW = {"blocks": 8, "width": 384, "heads": 6, "ffn": 1024}
VOCABULARY = 8192
WORDS = 220
"""Tokens of a prompt."""


@attrs.frozen
class Case:
    """One configuration.

    Arguments:
        name: for the table.
        strategy: registered name.
        pair: `embedded`, `mid`, or `given`.
        dtype: of both models.
        settings: `--set` values.
    """

    name: str
    strategy: str
    pair: str = "mid"
    dtype: str = "float32"
    settings: tuple[str, ...] = ()


_LORA = ("injector.train=lora",)
_SAVING = ("budget.checkpointing=true",)
CASES = (
    Case("embedded-sft", "sft", "embedded"),
    Case("embedded-latent", "latent", "embedded"),
    Case("mid-fp32-full", "sft"),
    Case("mid-fp32-full-checkpointing", "sft", settings=_SAVING),
    Case("mid-fp32-lora", "sft", settings=_LORA),
    Case("mid-fp32-lora-checkpointing", "sft", settings=(*_LORA, *_SAVING)),
    Case("mid-bf16-full", "sft", dtype="bfloat16"),
    Case("mid-bf16-lora-checkpointing", "sft", dtype="bfloat16", settings=(*_LORA, *_SAVING)),
    Case("mid-fp32-kd", "kd"),
    Case("mid-fp32-latent", "latent"),
    Case("mid-fp32-naive", "naive"),
    Case("mid-fp32-seeking", "seeking"),
)
GIVEN = (
    Case("given-fp32-full", "sft", "given"),
    Case("given-bf16-lora", "sft", "given", dtype="bfloat16", settings=_LORA),
)


def main() -> int:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("words", nargs="*")
    parser.add_argument("--pair", nargs=2, type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--estimate", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        return _measure(json.loads(given.measure))
    if given.estimate:
        return _estimate(json.loads(given.estimate))
    cases = GIVEN if given.pair else CASES
    chosen = [c for c in cases if all(word in c.name for word in given.words)]
    worst = 0.0
    print(f"{'case':28}  {'estimate':>9}  {'peak':>9}  ratio")
    with tempfile.TemporaryDirectory() as folder:
        places = _places(Path(folder), given.pair)
        for case in chosen:
            asked = json.dumps(
                {**attrs.asdict(case), "folder": folder, "models": places[case.pair]}
            )
            peak, estimate = _ask("--measure", asked), _ask("--estimate", asked)
            worst = max(worst, abs(estimate / peak - 1))
            print(
                f"{case.name:28}  {estimate / 2**20:5.0f} MiB  {peak / 2**20:5.0f} MiB  "
                f"{estimate / peak:.2f}",
                flush=True,
            )
    print(f"largest deviation {worst:.0%}, allowed {TOLERANCE:.0%}")
    return int(worst > TOLERANCE)


def _ask(what: str, asked: str) -> int:
    """Return the bytes that a fresh process prints."""
    command = [sys.executable, __file__, what, asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def _places(folder: Path, given: list[Path] | None) -> dict[str, list[str] | None]:
    """Write what is measured: the mid-size pair and rows."""
    rows = [
        {
            "id": f"r{i}-{split}",
            "split": split,
            "prompt": " ".join(str((5 * i + place + 7 * j) % 90) for j in range(WORDS)),
            "answer": " ".join(str((i + j) % 90) for j in range(24)),
        }
        for place, split in enumerate(("train", "align", "extract", "dev", "test"))
        for i in range(8)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places: dict[str, list[str] | None] = {"embedded": None, "given": None, "mid": None}
    if given:
        return places | {"given": [str(path) for path in given]}
    command = [sys.executable, "-c", _BUILD, str(folder), json.dumps([WIDE, NARROW, VOCABULARY])]
    subprocess.run(command, check=True)
    return places | {"mid": [str(folder / "source"), str(folder / "target")]}


_BUILD = """
import json, sys
from pathlib import Path
from pktkit.checkpoints.reading import read_tokenizer
from pktkit.testing import tiny_model
from pktkit.zoo import pair_paths
folder, (wide, narrow, vocab) = Path(sys.argv[1]), json.loads(sys.argv[2])
tokenizer = read_tokenizer(pair_paths()[0])
for name, sizes in (("source", wide), ("target", narrow)):
    sizes = {**sizes, "kv_heads": sizes["heads"] // 2, "max_position_embeddings": 1024}
    tiny_model("llama", vocab=vocab, tied=True, **sizes).save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
"""


def _plan(asked: dict[str, Any]) -> Any:
    from pktkit.cli.context import AppContext
    from pktkit.compare.plan import PairSpec, Plan
    from pktkit.overrides import apply_all
    from pktkit.zoo import pair_paths

    registry = AppContext().registry
    task = f"{asked['folder']}/rows.jsonl" if asked["models"] else "compose"
    source, target = map(str, asked["models"] or pair_paths())
    settings = ["budget.steps=2", "budget.batch_size=8", *asked["settings"]]
    return registry, Plan(
        pair=PairSpec(source, target, dtype=asked["dtype"]),
        strategies=tuple(apply_all([registry.strategy(asked["strategy"])], settings, registry)),
        tasks=(task,),
        seeds=(0,),
        item_limit=4,
    )


def _estimate(asked: dict[str, Any]) -> int:
    from pktkit.outlook.forecast import forecast

    registry, plan = _plan(asked)
    print(forecast(plan, registry, jobs=0).peak["cpu"])
    return 0


def _measure(asked: dict[str, Any]) -> int:
    """Run one cell and print this process's peak."""
    from pktkit.compare.cells import CellRunner

    _, plan = _plan(asked)
    result = CellRunner(plan).run(plan.cells()[0])
    if result.failed:
        raise SystemExit(f"{asked['name']}: {result.error}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else 1024 * peak)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

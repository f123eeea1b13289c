"""Runs of a tiny comparison through the command line, for tests of run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_transfers import pair_of

from pktkit.pair import save_model
from pktkit.tasks.base import SPLITS

STRATEGIES = "naive,latent"


def write_pair(folder: Path) -> None:
    """Write a tiny pair, and rows that are scored by likelihood, so that scores are not all 0."""
    pair = pair_of("llama")
    save_model(pair.source, folder / "source")
    save_model(pair.target, folder / "target")
    write_rows(folder / "rows.jsonl")


def write_rows(file: Path, rows: int = 16) -> None:
    """Write rows with two choices each."""
    lines = []
    for place, split in enumerate(SPLITS):
        for row in range(rows):
            number = (3 * row + place) % 20
            right, wrong = f" t{number}", f" t{number + 20}"
            lines.append(
                {
                    "id": f"{split}-{row}",
                    "split": split,
                    "prompt": f"t{row} t{place + 20} t{(7 * row) % 50}",
                    "answer": right,
                    "choices": [right, wrong],
                }
            )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def arguments(folder: Path, *more: str, strategies: str = STRATEGIES) -> list[str]:
    """Return the command line of a tiny comparison: 2 untouched models + 2 strategies × 3 seeds."""
    return [
        "compare",
        f"--source={folder / 'source'}",
        f"--target={folder / 'target'}",
        f"--task={folder / 'rows.jsonl'}",
        f"--strategies={strategies}",
        "--no-controls",
        "--set=budget.steps=3",
        "--set=budget.learning_rate=0.01",
        *more,
    ]


def scores_of(run: Path) -> Any:
    """Return everything in the results that two runs of a plan share."""
    return json.loads((run / "results.json").read_text())["scores"]


def cells_of(run: Path) -> dict[tuple[Any, ...], Any]:
    """Return scores, predictions and losses of every cell."""
    lines = [json.loads(line) for line in (run / "cells.jsonl").read_text().splitlines()]
    return {
        tuple(line["key"].values()): (line["scores"], (line["injection"] or {}).get("losses"))
        for line in lines
    }

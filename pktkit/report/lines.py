"""The lines of `cells.jsonl` and `items.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import attrs

from pktkit.outcomes import CellKey, CellResult, ItemScore, Spent
from pktkit.report.jsonfile import plain
from pktkit.values import Injection


def cell_line(cell: CellResult) -> str:
    """Return a cell as a line of `cells.jsonl`; its trace is left out."""
    record = attrs.asdict(attrs.evolve(cell, trace=()))
    del record["trace"]
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def read_cell(line: bytes) -> CellResult:
    """Rebuild a cell from its line.

    Raises:
        ValueError, TypeError, KeyError: it is not the line of a cell.
    """
    record = json.loads(line)
    injection = record["injection"]
    return CellResult(
        key=CellKey(**record["key"]),
        scores=[_item_score(score) for score in record["scores"]],
        injection=None if injection is None else Injection(**injection),
        layer_map=record["layer_map"],
        seconds=record["seconds"],
        peak_bytes=record["peak_bytes"],
        error=record["error"],
        notes=record.get("notes", ()),
        spent=None if record.get("spent") is None else Spent(**record["spent"]),
    )


def item_lines(cells: Iterable[CellResult]) -> Iterator[str]:
    """Yield one line per strategy, seed, task and item; the last result of a cell counts."""
    for cell in {cell.key: cell for cell in cells}.values():
        for score in cell.scores:
            record = {
                "strategy": cell.key.strategy,
                "seed": cell.key.seed,
                "task": cell.key.task,
                "point": cell.key.point,
                "repeat": cell.key.repeat,
                "item": score.item,
                "score": plain(score.score),
                "prediction": score.prediction,
            }
            yield json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _item_score(record: dict[str, Any]) -> ItemScore:
    """Rebuild a score; one that was not finite comes back as NaN, so that it is refused."""
    score = float("nan") if record["score"] is None else float(record["score"])
    return ItemScore(record["item"], score, record["prediction"])

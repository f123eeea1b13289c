"""The JSON Schemas of a run's files, which ship with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from pktkit.errors import unknown_name

SCHEMAS = ("cell", "item", "lock", "reproduction", "results", "sweep")
"""Lines of `cells.jsonl` and `items.jsonl`; `run.lock`, `reproduction.json`, `results.json`,
`sweep.json`."""


def schema(name: str) -> dict[str, Any]:
    """Return one of `SCHEMAS` as JSON Schema, draft 2020-12.

    Raises:
        UsageError: there is no such schema.
    """
    if name not in SCHEMAS:
        raise unknown_name("schema", name, SCHEMAS)
    file = resources.files("pktkit.report") / "schema" / f"{name}.schema.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content

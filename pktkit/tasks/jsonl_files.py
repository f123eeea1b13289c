"""Reading task files: what is in them, or a `UsageError` that says where they are wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pktkit.encoding import TEMPLATES
from pktkit.errors import UsageError, did_you_mean, unknown_name
from pktkit.tasks.base import SPLITS

ROW_FILES = (".jsonl", ".json")
DESCRIPTIONS = (".yaml", ".yml")
ENDINGS = ", ".join((*ROW_FILES, *DESCRIPTIONS))

_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "rows": (str, dict),
    "name": str,
    "template": str,
    "evaluator": (str, dict),
    "max_new_tokens": int,
    "budget": dict,
    "summary": str,
}
"""Keys of a description with the types they take."""


def is_task_file(reference: str) -> bool:
    """Tell whether what was typed after `--task` is a file's path, judged by its ending."""
    return Path(reference).suffix.lower() in (*ROW_FILES, *DESCRIPTIONS)


def json_lines(path: Path) -> list[tuple[str, Any]]:
    """Return file and line, and value, of each line that is not blank."""
    found = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            found.append((where, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where} is not JSON: {error}.") from error
    return found


def json_list(path: Path) -> list[tuple[str, Any]]:
    """Return file and place, and value, of each element of a JSON list."""
    try:
        values = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not JSON: {error}. A file with one row per line ends in .jsonl."
        ) from error
    if not isinstance(values, list):
        raise UsageError(f"{path} must hold a list of rows.")
    return [(f"{path}, row {number}", value) for number, value in enumerate(values, start=1)]


def read_description(path: Path) -> dict[str, Any]:
    """Read and check a YAML description."""
    try:
        content = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    keys = ", ".join(_KEYS)
    if not isinstance(content, dict) or "rows" not in content:
        raise UsageError(f"{path} must be a mapping with 'rows' and any of {keys}.")
    for key, value in content.items():
        if key not in _KEYS:
            guess = did_you_mean(str(key), _KEYS)
            raise UsageError(f"{path}: unknown key '{key}'.{guess} Known: {keys}.")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise UsageError(f"{path}: key '{key}' has an unfitting value {value!r}.")
    _check_description(path, content)
    return content


def _check_description(path: Path, content: Mapping[str, Any]) -> None:
    if content.get("max_new_tokens", 1) < 1:
        raise UsageError(f"{path}: max_new_tokens must be at least 1.")
    if content.get("template", "plain") not in TEMPLATES:
        raise UsageError(f"{path}: {unknown_name('template', content['template'], TEMPLATES)}")
    evaluator = content.get("evaluator", "")
    if isinstance(evaluator, dict) and not isinstance(evaluator.get("name"), str):
        raise UsageError(f"{path}: key 'evaluator' needs a 'name', got {evaluator!r}.")
    rows = content["rows"]
    if isinstance(rows, dict):
        for split, file in rows.items():
            if split not in SPLITS or not isinstance(file, str):
                raise UsageError(
                    f"{path}: 'rows' must name a file, or a file for each of {', '.join(SPLITS)}; "
                    f"got {split!r}: {file!r}.{did_you_mean(str(split), SPLITS)}"
                )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        near = [entry.name for entry in path.parent.glob("*") if is_task_file(entry.name)]
        raise UsageError(
            f"task file {path} does not exist.{did_you_mean(path.name, near)}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"task file {path} cannot be read: {error}.") from error

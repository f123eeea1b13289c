"""Reading task files: what is in them, or a `UsageError` that says where they are wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pktkit.encoding import TEMPLATES
from pktkit.errors import UsageError, did_you_mean, unknown_name
from pktkit.tasks.base import SPLITS
from pktkit.tasks.jsonl_rows import OPTIONAL

ROW_FILES = (".jsonl", ".json", ".parquet")
DESCRIPTIONS = (".yaml", ".yml")
ENDINGS = ", ".join((*ROW_FILES, *DESCRIPTIONS))

_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "rows": (str, dict),
    "columns": dict,
    "evaluate": str,
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


def read_rows(path: Path) -> list[tuple[str, Any]]:
    """Return place and value of every row of a `.jsonl`, `.jsonl.gz`, `.json` or `.parquet` file.

    Raises:
        UsageError: the file is missing, has another ending, or is not what its ending says.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_rows(path)
    if suffix == ".json":
        return json_list(path)
    if path.name.lower().endswith((".jsonl", ".jsonl.gz")):
        return json_lines(path)
    raise UsageError(f"file of rows {path} must end in {', '.join(ROW_FILES)} or .jsonl.gz.")


def parquet_rows(path: Path) -> list[tuple[str, Any]]:
    """Return file and place, and value, of each row of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    _require_file(path)
    try:
        values = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise UsageError(f"{path} cannot be read as Parquet: {said}.") from error
    return [(f"{path}, row {number}", value) for number, value in enumerate(values, start=1)]


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
    if not isinstance(content, dict) or not {"rows", "evaluate"} & set(content):
        raise UsageError(f"{path} must be a mapping with 'rows' or 'evaluate' and any of {keys}.")
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
    rows = content.get("rows")
    if "columns" in content:
        _check_columns(path, content["columns"])
        if rows is None:
            raise UsageError(f"{path}: 'columns' says how to read 'rows', but there are none.")
    if isinstance(rows, dict):
        for split, file in rows.items():
            if split not in SPLITS or not isinstance(file, str):
                raise UsageError(
                    f"{path}: 'rows' must name a file, or a file for each of {', '.join(SPLITS)}; "
                    f"got {split!r}: {file!r}.{did_you_mean(str(split), SPLITS)}"
                )


def _check_columns(path: Path, columns: Mapping[Any, Any]) -> None:
    fields = ("prompt", "answer", *OPTIONAL)
    for field, column in columns.items():
        if field not in fields or not isinstance(column, str):
            raise UsageError(
                f"{path}: 'columns' must give any of {', '.join(fields)} a column's name or a text "
                f"with {{column}} in it; got {field!r}: {column!r}."
                f"{did_you_mean(str(field), fields)}"
            )
    missing = [field for field in fields[:2] if field not in columns]
    if missing:
        raise UsageError(f"{path}: 'columns' must say what '{missing[0]}' is read from.")


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.exists():
        raise UsageError(f"task file {path} cannot be read: it is no file.")
    near = [entry.name for entry in path.parent.glob("*") if is_task_file(entry.name)]
    raise UsageError(f"task file {path} does not exist.{did_you_mean(path.name, near)}")


def _read(path: Path) -> str:
    _require_file(path)
    try:
        if path.suffix.lower() == ".gz":
            return gzip.decompress(path.read_bytes()).decode("utf-8-sig")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UsageError(f"task file {path} cannot be read: {error}.") from error

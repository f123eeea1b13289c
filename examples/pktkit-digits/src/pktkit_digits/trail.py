"""A trail of finished stages, to be followed while a long comparison runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pktkit.outcomes import StageRecord


def append(path: str | Path, record: StageRecord) -> None:
    """Add one line of JSON: strategy, task, seed, point, repeat, stage, seconds, summary.

    Cells run in several processes, each of which calls its observers, so that the line is written
    at once: a single write to a file opened for appending is not torn by another process's.
    """
    fields = attrs.asdict(record)
    line = json.dumps({**fields.pop("key"), **fields}, ensure_ascii=False) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)

"""The default pair: two small models trained for this project, stored in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAIR = Path(__file__).parent / "pair"


def pair_paths() -> tuple[Path, Path]:
    """Return the directories of the source and of the target."""
    return PAIR / "source", PAIR / "target"


def provenance() -> dict[str, Any]:
    """Return how the pair was made and what it scores, as `pktkit zoo build` recorded it."""
    return json.loads((PAIR / "provenance.json").read_text(encoding="utf-8"))

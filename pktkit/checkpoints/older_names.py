"""Names in `config.json` that other readers of checkpoints still look for.

transformers 5 keeps everything about rotary positions in `rope_parameters`. A reader that knows
only the older names takes its own default instead, without a word, and computes another model;
the values are therefore written under both. transformers reads both alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ROTARY = ("rope_theta", "partial_rotary_factor")
_BY_TYPE: Mapping[str, Mapping[str, str]] = {
    "gpt_neox": {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
}
_LOCAL = "rope_local_base_freq"


def add_older_names(directory: Path) -> None:
    """Add the older names to the `config.json` of a directory; names that are there stay."""
    file = directory / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    text = json.dumps(older_names(config) | config, indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says, under the names that readers knew before."""
    found: dict[str, Any] = {}
    if "dtype" in config:
        found["torch_dtype"] = config["dtype"]
    if "n_positions" in config:
        found["n_ctx"] = config["n_positions"]
    rotary = config.get("rope_parameters") or {}
    if "full_attention" in rotary and "sliding_attention" in rotary:
        found["rope_theta"] = rotary["full_attention"]["rope_theta"]
        found[_LOCAL] = rotary["sliding_attention"]["rope_theta"]
        return found
    names = _BY_TYPE.get(config["model_type"], {})
    found |= {names.get(name, name): rotary[name] for name in _ROTARY if name in rotary}
    kind = rotary.get("rope_type", "default")
    if kind != "default":
        scaling = {name: value for name, value in rotary.items() if name not in _ROTARY}
        found["rope_scaling"] = {**scaling, "type": kind}
    return found

"""What is about to run, said before anything is loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pktkit.compare.plan import Plan

_NAMES = {
    "blocks": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads",),
}
"""What configurations call the sizes; families differ."""


def announce(plan: Plan) -> str:
    """Return three lines: both models and the amount of work."""
    controls = sum(strategy.control for strategy in plan.strategies)
    methods = len(plan.strategies) - controls
    tasks = ", ".join(plan.tasks)
    points = f" at {len(plan.points)} points" if len(plan.points) > 1 else ""
    again = f" + {plan.repeats} again" if plan.repeats else ""
    return (
        f"source   {model_line(plan.pair.source)}\n"
        f"target   {model_line(plan.pair.target)}\n"
        f"plan     {methods} strategies + {controls} controls × "
        f"{len(plan.seeds)} seeds{again}{points} on "
        f"{tasks}: {len(plan.cells())} cells, scored on {plan.split}"
    )


def model_line(location: str) -> str:
    """Return a model's name and, from its `config.json` where it is here, its sizes."""
    from pktkit.checkpoints import local_files

    found = local_files(location)
    if found is None:
        return location
    name = found.name
    try:
        config = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return name
    sizes: dict[str, Any] = {
        size: next((config[key] for key in keys if key in config), None)
        for size, keys in _NAMES.items()
    }
    if sizes["blocks"] is None or sizes["width"] is None:
        return name
    heads = f"{sizes['heads']}:{sizes['kv_heads'] or sizes['heads']} heads"
    return f"{name}  {sizes['blocks']} blocks × {sizes['width']}  {heads}"

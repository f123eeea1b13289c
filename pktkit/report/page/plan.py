"""What a run was made of: one line at the top, all of it at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pktkit.report.page.document import Block, facts
from pktkit.report.page.elements import table


def plan_line(plan: Mapping[str, Any]) -> str:
    """Return one line on what was compared, as far as the plan says it."""
    pair = plan.get("pair")
    known = []
    if isinstance(pair, Mapping):
        known += [f"{side} {_name(pair.get(side))}" for side in ("source", "target")]
        known += [str(pair[key]) for key in ("dtype", "device") if pair.get(key)]
    if plan.get("split"):
        known.append(f"scored on {plan['split']}")
    packages = plan.get("packages")
    if isinstance(packages, Mapping) and "pktkit" in packages:
        known.append(f"pktkit {packages['pktkit']}")
    return facts(known)


def _name(location: Any) -> str:
    """Return a model's place without the folders around it; the whole of it is in the plan."""
    path = Path(str(location))
    return str(Path(*path.parts[-2:])) if path.is_absolute() else str(location)


def plan_blocks(plan: Mapping[str, Any]) -> list[Block]:
    """Return everything the plan says, a line per setting; none without a plan."""
    rows = list(_flat("", plan))
    if not rows:
        return []
    body = table(("setting", "value"), rows, words=1, label="plan of the run")
    return [Block("Run", body, folded=True)]


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield dotted names with values; what is not set is left out."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), entry)
    elif isinstance(value, list | tuple):
        if any(isinstance(entry, Mapping | list | tuple) for entry in value):
            for place, entry in enumerate(value):
                yield from _flat(f"{name}[{place}]", entry)
        elif value:
            yield name, ", ".join(map(str, value))
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    elif value is not None and value != "":
        yield name, str(value)

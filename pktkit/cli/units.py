"""Sizes and times as people write them: `20GB`, `7d`."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZES = {
    "": 1,
    "B": 1,
    **{f"{u}B": 1000**i for i, u in enumerate("KMGT", 1)},
    **{f"{u}IB": 1024**i for i, u in enumerate("KMGT", 1)},
}
_TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


class _Quantity(click.ParamType):
    """A number with a unit."""

    def __init__(self, name: str, units: dict[str, int], example: str) -> None:
        self.name, self.units, self.example = name, units, example

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Read a quantity; `none` is None."""
        if not isinstance(value, str):
            return value
        if value.lower() == "none":
            return None
        found = _NUMBER.fullmatch(value.strip())
        units = {unit.lower(): factor for unit, factor in self.units.items()}
        if found is None or found[2].lower() not in units:
            known = ", ".join(unit for unit in self.units if unit)
            self.fail(f"'{value}' is no {self.name}; write e.g. {self.example}. Units: {known}.")
        return int(float(found[1]) * units[found[2].lower()])


SIZE = _Quantity("size", _SIZES, "20GB or none")
"""Bytes, or None for `none`."""

AGE = _Quantity("age", _TIMES, "7d")
"""Seconds."""


def shown_size(size: float) -> str:
    """Write bytes with at most one decimal and a decimal unit."""
    units = ["B", "KB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    number = f"{size:.1f}".removesuffix(".0") if size < 99.95 else f"{size:.0f}"
    return number + units[0]


def shown_age(seconds: float) -> str:
    """Write a time with one unit."""
    seconds = max(0.0, seconds)
    for unit in ("w", "d", "h", "m"):
        if seconds >= 2 * _TIMES[unit]:
            return f"{seconds // _TIMES[unit]:.0f}{unit}"
    return f"{seconds:.0f}s"

"""How numbers are written, in one place. Absent values are a dash, never `nan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pktkit.statistics import Interval

if TYPE_CHECKING:
    from pktkit.report.records import GapClosed

ABSENT = "–"
MINUS = "−"


def points(value: float) -> str:
    """Write a figure with one decimal, or with its first two digits where that would be 0.0."""
    text = f"{abs(value):.1f}"
    if text == "0.0" and value != 0.0:
        text = f"{abs(value):.2g}" if abs(value) >= 1e-4 else "0.0"
    return f"{MINUS}{text}" if value < 0.0 and float(text) != 0.0 else text


def signed(value: float) -> str:
    """Write a figure as `points` does, with a plus in front unless it is negative or 0."""
    text = points(value)
    return text if text.startswith(MINUS) or float(text) == 0.0 else f"+{text}"


def percent(mean: float | None, deviation: float | None) -> str:
    """Write a mean score and its deviation over seeds, both in percent."""
    if mean is None:
        return ABSENT
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def delta(value: float, interval: Interval) -> str:
    """Write a difference with its interval, for a table."""
    return f"{signed(value)} [{signed(interval.low)}, {signed(interval.high)}]"


def gap(value: GapClosed | None) -> str:
    """Write a share of the source-target distance with its interval, for a table; whole percent."""
    if value is None:
        return ABSENT
    if value.percent is None or value.interval is None:
        return "undefined"
    return f"{_whole(value.percent)} [{_whole(value.interval.low)}, {_whole(value.interval.high)}]"


def _whole(value: float) -> str:
    rounded = round(value)
    return f"{MINUS}{-rounded}" if rounded < 0 else str(rounded)


def p_value(value: float) -> str:
    """Write a p-value with three decimals; `<0.001` below that."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """Write a number of items: whole, or with one decimal where it is a mean over seeds."""
    if value is None:
        return ABSENT
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


def large(value: int | None) -> str:
    """Write a number of tokens, parameters or operations with three digits and a unit."""
    if value is None:
        return ABSENT
    size = float(value)
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        if size < 999.5 or unit == "E":
            break
        size /= 1000.0
    text = f"{size:.0f}" if not unit or size >= 99.95 else f"{size:.1f}"
    return f"{text} {unit}".rstrip()


def size(value: int | None) -> str:
    """Write a number of bytes in GiB, or in MiB below one."""
    if value is None:
        return ABSENT
    mebibytes = value / 2**20
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def seconds(value: float | None) -> str:
    """Write wall seconds, with one decimal below 100."""
    if value is None:
        return ABSENT
    return f"{value:.1f}" if value < 99.95 else f"{value:.0f}"

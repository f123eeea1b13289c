"""Rows with columns of their own names, brought into the fields that tasks read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pktkit.errors import UsageError, did_you_mean
from pktkit.tasks.jsonl_rows import OPTIONAL

_COLUMN = re.compile(r"\{(\w+)\}")


def shaped(value: Any, columns: Mapping[str, str], where: str) -> Any:
    """Return one row with the fields that `columns` describes.

    `id`, `split`, `choices` and `check` that `columns` leaves out are taken from columns of these
    names. With choices, the answer may be the number of the right choice, counted from 0, or its
    letter.

    Arguments:
        value: the row as read; anything but an object is returned as it is.
        columns: by field, a column's name, or a text with `{column}` in it.
        where: file and line, the beginning of every message.

    Raises:
        UsageError: a column is missing, or the answer names no choice.
    """
    if not isinstance(value, Mapping):
        return value
    row = {field: value[field] for field in OPTIONAL if field in value}
    for field, source in columns.items():
        if _COLUMN.search(source):
            row[field] = _COLUMN.sub(lambda found: str(_column(value, found[1], where)), source)
        else:
            row[field] = _column(value, source, where)
    choices = row.get("choices")
    if isinstance(choices, list) and row["answer"] not in choices:
        row["answer"] = choices[_index(row["answer"], len(choices), where)]
    elif not isinstance(row["answer"], str):
        row["answer"] = str(row["answer"])
    return row


def _column(value: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in value:
        listed = ", ".join(map(str, value)) or "none"
        raise UsageError(
            f"{where}: column '{name}' is missing.{did_you_mean(name, map(str, value))} "
            f"Got: {listed}."
        )
    return value[name]


def _index(answer: Any, count: int, where: str) -> int:
    """Return the choice that a number or a letter names."""
    text = str(answer).strip()
    if text.isdecimal():
        number = int(text)
    elif len(text) == 1 and text.isalpha() and text.isascii():
        number = ord(text.upper()) - ord("A")
    else:
        number = count
    if not 0 <= number < count:
        raise UsageError(
            f"{where}: the answer {answer!r} is none of the {count} choices, nor the number "
            "(from 0) or letter of one."
        )
    return number

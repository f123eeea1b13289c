"""Converters for attrs fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def as_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    """Freeze an iterable. Named and typed, because `tuple` itself defeats the type checker."""
    return tuple(values)

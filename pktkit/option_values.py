"""Conversion of YAML values to the annotated types of options.

Strict where a guess could be wrong (no text for a number field that is not a number, no number
for a yes/no field), lenient where YAML 1.1 is surprising (`1e-3` is text to YAML).
"""

from __future__ import annotations

import enum
import math
import pathlib
import types
import typing
from collections import abc
from typing import Any


class Mismatch(Exception):
    """A value does not fit a type; `expected` says in words what would."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


def convert(value: Any, expected: Any) -> Any:
    """Return `value` as an instance of the annotation `expected`.

    Raises:
        Mismatch: the value does not fit.
    """
    expected = _unwrapped(expected)
    origin = typing.get_origin(expected)
    if expected is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _to_union(value, typing.get_args(expected))
    if origin is typing.Literal:
        return _to_literal(value, typing.get_args(expected))
    if expected in _SCALARS:
        return _SCALARS[expected](value)
    container = origin or expected
    if container in _SEQUENCES:
        return _to_sequence(value, container, typing.get_args(expected))
    if container in (dict, abc.Mapping, abc.MutableMapping):
        return _to_mapping(value, typing.get_args(expected))
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        return _to_enum(value, expected)
    if isinstance(expected, type) and not isinstance(value, expected):
        raise Mismatch(f"a {type_name(expected)}")
    return value


def type_name(expected: Any) -> str:
    """Return an annotation as users read it, e.g. `int | null` or `tuple[str, ...]`."""
    expected = _unwrapped(expected)
    origin = typing.get_origin(expected)
    if expected is type(None):
        return "null"
    if expected is Ellipsis:
        return "..."
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(member) for member in typing.get_args(expected))
    if origin is typing.Literal:
        return " | ".join(str(choice) for choice in typing.get_args(expected))
    if origin is not None:
        inner = ", ".join(type_name(member) for member in typing.get_args(expected))
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    if isinstance(expected, type) and issubclass(expected, enum.Enum):
        return " | ".join(str(member.value) for member in expected)
    return getattr(expected, "__name__", str(expected))


def _unwrapped(expected: Any) -> Any:
    """Strip `Annotated` and `NewType`."""
    while True:
        if typing.get_origin(expected) is typing.Annotated:
            expected = typing.get_args(expected)[0]
        elif isinstance(expected, typing.NewType):
            expected = expected.__supertype__
        else:
            return expected


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Mismatch("true or false")


def _to_int(value: Any) -> int:
    try:
        number = _to_float(value)
        whole = value if isinstance(value, int) else int(number)
    except (Mismatch, OverflowError):
        raise Mismatch("a whole number") from None
    if not isinstance(value, int) and whole != number:
        raise Mismatch("a whole number")
    return whole


def _to_float(value: Any) -> float:
    number = math.nan
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise Mismatch("a number") from None
    if math.isnan(number):
        raise Mismatch("a number")
    return number


def _to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise Mismatch("text (put it in quotes)")


def _to_path(value: Any) -> pathlib.Path:
    if isinstance(value, (str, pathlib.Path)):
        return pathlib.Path(value)
    raise Mismatch("a path")


def _to_none(value: Any) -> None:
    if value is not None:
        raise Mismatch("null")


_SCALARS: typing.Mapping[Any, typing.Callable[[Any], Any]] = types.MappingProxyType(
    {
        bool: _to_bool,
        int: _to_int,
        float: _to_float,
        str: _to_text,
        pathlib.Path: _to_path,
        type(None): _to_none,
    }
)

_SEQUENCES: typing.Mapping[Any, Any] = types.MappingProxyType(
    {
        tuple: tuple,
        list: list,
        set: set,
        frozenset: frozenset,
        abc.Sequence: tuple,
        abc.Collection: tuple,
        abc.Iterable: tuple,
    }
)


def _to_enum(value: Any, expected: type[enum.Enum]) -> enum.Enum:
    """Find a member by value, or by name in any case."""
    for member in expected:
        if value is member or value == member.value:
            return member
        if isinstance(value, str) and value.lower() == member.name.lower():
            return member
    raise Mismatch(f"one of {', '.join(str(member.value) for member in expected)}")


def _to_literal(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    raise Mismatch(f"one of {', '.join(str(choice) for choice in choices)}")


def _to_union(value: Any, members: tuple[Any, ...]) -> Any:
    """Prefer the member the value already is, then the first it converts to."""
    for member in members:
        plain = _unwrapped(member)
        if isinstance(plain, type) and typing.get_origin(plain) is None and type(value) is plain:
            return value
    expected = []
    for member in members:
        try:
            return convert(value, member)
        except Mismatch as mismatch:
            expected.append(mismatch.expected)
    if type(None) in members and value == "none":
        return None
    raise Mismatch(" or ".join(expected))


def _to_sequence(value: Any, container: Any, members: tuple[Any, ...]) -> Any:
    """Convert a list; text is split at commas, any other single value is a list of one."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, (bool, int, float)):
        value = [value]
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise Mismatch("a list")
    make = _SEQUENCES[container]
    if not members:
        return make(value)
    if container is tuple and not (len(members) == 2 and members[1] is Ellipsis):
        if len(value) != len(members):
            raise Mismatch(f"a list of {len(members)} values")
        return tuple(_element(v, m) for v, m in zip(value, members, strict=True))
    return make(_element(item, members[0]) for item in value)


def _element(value: Any, expected: Any) -> Any:
    try:
        return convert(value, expected)
    except Mismatch as mismatch:
        raise Mismatch(f"a list whose every value is {mismatch.expected}") from None


def _to_mapping(value: Any, members: tuple[Any, ...]) -> dict[Any, Any]:
    if not isinstance(value, abc.Mapping):
        raise Mismatch("a mapping of names to values")
    if not members:
        return dict(value)
    return {convert(key, members[0]): convert(item, members[1]) for key, item in value.items()}

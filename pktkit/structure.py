"""Frozen attrs values as plain data and back, by their annotations.

Plain data is what YAML and JSON hold. Strategies are written as recipes, choices as a recipe
writes them, other attrs classes as mappings of all their fields.
"""

from __future__ import annotations

import types
import typing
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from pktkit.components import Choice, Strategy
from pktkit.errors import UsageError, did_you_mean
from pktkit.option_values import Mismatch, convert, type_name
from pktkit.recipe import dump_choice, parse_choice, parse_document, plain_value, recipe_document


def to_plain(value: Any) -> Any:
    """Return a value as plain data.

    Raises:
        UsageError: a strategy has an option that a recipe cannot hold.
    """
    if isinstance(value, Strategy):
        return recipe_document(value)
    if isinstance(value, Choice):
        return dump_choice(value, f"component '{value.name}'")
    if attrs.has(type(value)):
        return {f.name: to_plain(getattr(value, f.name)) for f in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {plain_value(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(entry) for entry in value]
    return plain_value(value)


def from_plain(expected: Any, data: Any, where: str) -> Any:
    """Rebuild a value of an annotated type.

    Arguments:
        expected: an attrs class, or an annotation made of containers, attrs classes and scalars.
        data: as `to_plain` gave it.
        where: what the data is, the subject of error messages.

    Raises:
        UsageError: the data does not fit; the message names the field.
    """
    if expected is Any:
        return data
    if expected is Strategy:
        return parse_document(data, where)
    if expected is Choice:
        return parse_choice(data, where)
    if isinstance(expected, type) and attrs.has(expected):
        return _attrs_value(expected, data, where)
    origin, members = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _member(members, data, where)
    if origin in (tuple, list, abc.Sequence):
        return _sequence(origin, members, data, where)
    if origin in (dict, abc.Mapping):
        given = _mapping(data, where)
        return {key: from_plain(members[1], each, f"{where}.{key}") for key, each in given.items()}
    try:
        return convert(data, expected)
    except Mismatch as mismatch:
        raise UsageError(f"{where} must be {mismatch.expected}, got {data!r}.") from mismatch


def flattened(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every scalar of nested mappings with its dotted path; a list counts as a scalar.

    Lists of named mappings, such as strategies, are entered by name.
    """
    if isinstance(data, list) and data and all(_named(each) for each in data):
        data = {each["name"]: {k: v for k, v in each.items() if k != "name"} for each in data}
    if isinstance(data, Mapping) and data:
        for key, value in data.items():
            yield from flattened(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, data


def differences(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """Return path and both values of every scalar that differs; None where one lacks it."""
    first, second = dict(flattened(one)), dict(flattened(other))
    return [
        (path, first.get(path), second.get(path))
        for path in dict.fromkeys([*first, *second])
        if first.get(path) != second.get(path)
    ]


def _named(data: Any) -> bool:
    return isinstance(data, Mapping) and "name" in data


def _attrs_value(cls: Any, data: Any, where: str) -> Any:
    given = _mapping(data, where)
    fields = {field.name: field for field in attrs.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    for key in given:
        if key not in fields:
            raise UsageError(f"{where} has no field '{key}'.{did_you_mean(str(key), fields)}")
    missing = [name for name, f in fields.items() if f.default is attrs.NOTHING]
    missing = [name for name in missing if name not in given]
    if missing:
        raise UsageError(f"{where}: field '{missing[0]}' is missing.")
    values = {
        fields[key].alias: from_plain(hints[key], value, f"{where}.{key}")
        for key, value in given.items()
    }
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from error


def _member(members: Sequence[Any], data: Any, where: str) -> Any:
    """Rebuild a value of the first member of a union that it fits."""
    if data is None and type(None) in members:
        return None
    reasons = []
    for member in members:
        try:
            return from_plain(member, data, where)
        except UsageError as error:
            reasons.append(error)
    if len(members) == 2 and type(None) in members:
        raise reasons[0]
    expected = " or ".join(type_name(member) for member in members)
    raise UsageError(f"{where} must be {expected}, got {data!r}.")


def _sequence(origin: Any, members: Sequence[Any], data: Any, where: str) -> Any:
    if not isinstance(data, list):
        raise UsageError(f"{where} must be a list, got {data!r}.")
    if origin is tuple and not (len(members) == 2 and members[1] is Ellipsis):
        if len(data) != len(members):
            raise UsageError(f"{where} must be a list of {len(members)} values, got {data!r}.")
        pairs = zip(members, data, strict=True)
        return tuple(from_plain(m, d, f"{where}[{i}]") for i, (m, d) in enumerate(pairs))
    made = [from_plain(members[0], each, f"{where}[{place}]") for place, each in enumerate(data)]
    return made if origin is list else tuple(made)


def _mapping(data: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} must be a mapping, got {data!r}.")
    return data

"""Options of components: declared as frozen attrs classes, built from what a user wrote.

A component's class has `Options`, a frozen attrs class. `option` declares one field with its
documentation, `build_options` fills the class from a recipe, `describe_options` lists it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from pktkit.errors import PluginError, UsageError, did_you_mean
from pktkit.option_values import Mismatch, convert, type_name

Validator = Callable[[Any, Any, Any], Any]


@attrs.frozen
class OptionField:
    """One option as shown to users.

    Arguments:
        name: as written in a recipe or after `--set stage.`.
        type: the type in words of Python's annotations.
        default: the default; `attrs.NOTHING` when the option must be given.
        doc: one sentence.
        choices: the values allowed, if they are a closed set.
    """

    name: str
    type: str
    default: Any
    doc: str = ""
    choices: tuple[Any, ...] = ()

    @property
    def required(self) -> bool:
        """Whether the option has no default."""
        return self.default is attrs.NOTHING

    def __str__(self) -> str:
        return self.name if self.required else f"{self.name}={_shown(self.default)}"


def option(
    default: Any,
    doc: str,
    *,
    validator: Validator | None = None,
    choices: Collection[Any] | None = None,
) -> Any:
    """Declare one field of an options class.

    Arguments:
        default: the value when the user says nothing; `attrs.NOTHING` makes the option required.
        doc: one sentence for listings and error messages.
        validator: an attrs validator; its `ValueError` becomes a `UsageError`.
        choices: the closed set of allowed values.
    """
    validators = [] if validator is None else [validator]
    allowed = () if choices is None else tuple(choices)
    if allowed:
        validators.insert(0, _one_of(allowed))
    return attrs.field(
        default=default, validator=validators or None, metadata={"doc": doc, "choices": allowed}
    )


def describe_options(cls: type) -> list[OptionField]:
    """List the fields of an options class in the order they were declared.

    Raises:
        PluginError: `cls` is not an attrs class, or a field's type cannot be resolved.
    """
    types = _field_types(cls)
    return [
        OptionField(
            name=field.alias or field.name,
            type=type_name(types[field.name]),
            default=_default(field),
            doc=str(field.metadata.get("doc", "")),
            choices=tuple(field.metadata.get("choices", ())),
        )
        for field in attrs.fields(cls)
        if field.init
    ]


def build_options(cls: type, mapping: Mapping[str, Any], where: str) -> Any:
    """Build an options class from names and values as read from YAML.

    Arguments:
        cls: a frozen attrs class.
        mapping: option name to value; options left out keep their defaults.
        where: what the options belong to, the subject of error messages.

    Raises:
        UsageError: an option is unknown, missing, of the wrong type, or refused by a validator.
        PluginError: `cls` itself is at fault.
    """
    described = describe_options(cls)
    names = [field.name for field in described]
    types = _field_types(cls)
    by_alias = {field.alias or field.name: types[field.name] for field in attrs.fields(cls)}
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if name not in names:
            raise UsageError(_unknown(where, str(name), described))
        values[name] = _converted(value, by_alias[name], f"{where}.{name}")
    missing = [field.name for field in described if field.required and field.name not in values]
    if missing:
        raise UsageError(f"{where}: option '{missing[0]}' must be given.")
    try:
        return cls(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except (ValueError, TypeError) as error:
        message = error.args[0] if error.args else type(error).__name__
        raise UsageError(f"{where}: {message}") from error


def _converted(value: Any, expected: Any, where: str) -> Any:
    """Convert one value; nested options classes are built recursively."""
    if attrs.has(expected) and isinstance(value, Mapping):
        return build_options(expected, value, where)
    try:
        return convert(value, expected)
    except Mismatch as mismatch:
        raise UsageError(f"{where} must be {mismatch.expected}, got {value!r}.") from mismatch


def _unknown(where: str, name: str, described: list[OptionField]) -> str:
    """Word the complaint about an option that does not exist."""
    listed = ", ".join(str(field) for field in described) or "none"
    guess = did_you_mean(name, [field.name for field in described])
    return f"{where} has no option '{name}'.{guess} Options: {listed}."


def _field_types(cls: type) -> dict[str, Any]:
    """Resolve the annotations of an attrs class, by attribute name."""
    if not (isinstance(cls, type) and attrs.has(cls)):
        raise PluginError(f"{cls!r} is not an attrs class; options need `@attrs.frozen`.")
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        raise PluginError(
            f"the option types of {cls.__module__}.{cls.__qualname__} cannot be resolved: {error}. "
            "Import them outside `if TYPE_CHECKING`."
        ) from error
    return {field.name: hints.get(field.name, Any) for field in attrs.fields(cls)}


def _default(field: attrs.Attribute[Any]) -> Any:
    """Return a field's default; factories that need the instance have none to show."""
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        factory = typing.cast(Any, field.default)
        return "(computed)" if factory.takes_self else factory.factory()
    return field.default


def _one_of(allowed: tuple[Any, ...]) -> Validator:
    """Return a validator that accepts a closed set of values."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value not in allowed:
            listed = ", ".join(str(choice) for choice in allowed)
            guess = did_you_mean(str(value), [str(choice) for choice in allowed])
            raise ValueError(f"{attribute.name} must be one of {listed}, got {value!r}.{guess}")

    return check


def _shown(value: Any) -> str:
    """Write a default as the user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)

"""Strategies as YAML.

A recipe names the stages of a strategy. A stage is a component's name, or a mapping with `name`
and the component's options:

    name: my-strategy
    matcher: depth
    aligner: {name: semantic, rank: 8}
    injector:
      name: steer
      layer_weight: 5
    budget: {steps: 100}
"""

from __future__ import annotations

import enum
import pathlib
import re
from collections.abc import Hashable, Mapping
from typing import Any

import attrs
import yaml

from pktkit.components import ROLES, Choice, Kind, Strategy
from pktkit.errors import UsageError, did_you_mean

STAGES = (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR)
_KEYS = (
    "name",
    "summary",
    "reference",
    "role",
    "placebo_of",
    "isolates",
    "matcher",
    "aligner",
    "injector",
    "budget",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse_value(text: str) -> Any:
    """Read one YAML value.

    Raises:
        UsageError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"'{text}' is not a YAML value: {_one_line(error)}.") from error


def load_recipe(path: pathlib.Path | str) -> Strategy:
    """Read a strategy from a recipe file.

    Raises:
        UsageError: the file cannot be read, is not YAML, or is not a recipe.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read: {_one_line(error)}.") from error
    return parse_recipe(text, f"recipe {path}")


def parse_recipe(text: str, where: str = "recipe") -> Strategy:
    """Read a strategy from recipe text; `where` begins every error message.

    Raises:
        UsageError: the text is not YAML or not a recipe.
    """
    return parse_document(load_document(text, where), where)


def load_document(text: str, where: str) -> Any:
    """Read YAML that names no key twice.

    Raises:
        UsageError: the text is not YAML; `where` begins the message.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {_one_line(error)}.") from error


def parse_document(content: Any, where: str = "recipe") -> Strategy:
    """Build a strategy from a recipe's content.

    Raises:
        UsageError: it is not a recipe.
    """
    if not isinstance(content, dict):
        raise UsageError(f"{where} must be a mapping with the keys {', '.join(_KEYS)}.")
    for key in content:
        if key not in _KEYS:
            guess = did_you_mean(str(key), _KEYS)
            raise UsageError(f"{where}: unknown key '{key}'.{guess} Known: {', '.join(_KEYS)}.")
    fields = {key: value for key, value in content.items() if value is not None}
    stages: dict[str, Any] = {
        kind.value: parse_choice(fields.pop(kind.value, None), where, kind) for kind in STAGES
    }
    _check_plain_fields(fields, where)
    return Strategy(**fields, **stages)


def dump_recipe(strategy: Strategy) -> str:
    """Write a strategy as recipe text; `parse_recipe` reads it back.

    Raises:
        UsageError: an option's value cannot be written as YAML.
    """
    content = recipe_document(strategy)
    try:
        written = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        if not written.replace("\n", "").isprintable():
            # YAML reads some invisible characters, such as U+0085, as line breaks.
            written = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
    except yaml.YAMLError as error:
        raise UsageError(
            f"strategy '{strategy.name}' cannot be written as a recipe: {_one_line(error)}."
        ) from error
    return written


def recipe_document(strategy: Strategy) -> dict[str, Any]:
    """Return a strategy as a recipe's content; `parse_document` reads it back.

    Raises:
        UsageError: an option is called as a key of recipes.
    """
    blank = Strategy(name=strategy.name)
    content: dict[str, Any] = {"name": strategy.name}
    for key in _KEYS[1:]:
        value = getattr(strategy, key)
        if value == getattr(blank, key):
            continue
        if isinstance(value, Choice):
            content[key] = dump_choice(value, f"strategy '{strategy.name}': {key}")
        else:
            content[key] = plain_value(value)
    return content


def dump_choice(choice: Choice, where: str) -> Any:
    """Return a choice as a recipe writes it; `parse_choice` reads it back.

    Raises:
        UsageError: it has an option called `name`.
    """
    if "name" in choice.options:
        raise UsageError(f"{where} has an option called 'name', which a recipe cannot hold.")
    if not choice.options:
        return choice.name
    return {"name": choice.name, **{k: plain_value(v) for k, v in choice.options.items()}}


def parse_choice(value: Any, where: str, kind: Kind | None = None) -> Choice | None:
    """Read a component's name, or a mapping with `name` and its options; None stays None.

    Raises:
        UsageError: the value is neither.
    """
    if value is None:
        return None
    subject = where if kind is None else f"{where}: {kind}"
    options = dict(value) if isinstance(value, dict) else {"name": value}
    name = options.pop("name", None)
    if not isinstance(name, str) or not name:
        raise UsageError(
            f"{subject} must be a component's name or a mapping with 'name', got {value!r}."
        )
    for key in options:
        if not isinstance(key, str):
            raise UsageError(f"{subject} option names must be text, got {key!r}.")
    return Choice(name, options)


def _check_plain_fields(fields: Mapping[str, Any], where: str) -> None:
    """Check every key of a recipe but the stages."""
    name = fields.get("name")
    if name is None:
        raise UsageError(f"{where}: key 'name' is missing.")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{where}: name must be letters, digits, hyphens, dots and underscores, got {name!r}."
        )
    for key in ("summary", "reference", "isolates"):
        if not isinstance(fields.get(key, ""), str):
            raise UsageError(f"{where}: {key} must be text, got {fields[key]!r}.")
    if fields.get("role", "method") not in ROLES:
        raise UsageError(
            f"{where}: role must be one of {', '.join(ROLES)}, got {fields['role']!r}."
        )
    methods = fields.get("placebo_of", [])
    if not isinstance(methods, list) or not all(isinstance(name, str) for name in methods):
        raise UsageError(f"{where}: placebo_of must be a list of strategies, got {methods!r}.")
    if not isinstance(fields.get("budget", {}), dict):
        raise UsageError(f"{where}: budget must be a mapping, got {fields['budget']!r}.")


def plain_value(value: Any) -> Any:
    """Turn option values into what YAML can hold and read back."""
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {plain_value(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain_value(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain_value(item) for item in value)
    if attrs.has(type(value)):
        return plain_value(attrs.asdict(value, recurse=False))
    return value


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _one_line(error: BaseException) -> str:
    """Return an error's text without line breaks."""
    return " ".join(str(error).split()).rstrip(".")

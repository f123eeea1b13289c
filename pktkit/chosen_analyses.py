"""Which analyses a user asked for, and what is set on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pktkit.components import Choice, Kind
from pktkit.errors import UsageError, did_you_mean, unknown_name

if TYPE_CHECKING:
    from pktkit.registry import Registry

ALL = "all"
EVERY = "analysis"
"""What stands before the dot of a `--set` that is meant for every analysis that has the option."""

_OVERRIDE = re.compile(r"(?P<name>[\w.-]+)\.(?P<option>\w+)=(?P<value>.*)", re.DOTALL)


def choose_analyses(registry: Registry, names: Sequence[str]) -> list[Choice]:
    """Return the named analyses; `all` stands for every registered one.

    Raises:
        UsageError: an unknown name, or none at all.
        PluginError: a name that several plugins claim.
    """
    known = registry.names(Kind.ANALYSIS)
    wanted = [each for name in names for each in (known if name == ALL else (name,))]
    if not wanted:
        listed = ", ".join(known) or "none is installed"
        raise UsageError(f"no analysis is named. Known: {listed}.")
    chosen = []
    for name in dict.fromkeys(wanted):
        if name not in known:
            raise unknown_name("analysis", name, [*known, ALL])
        registry.get(Kind.ANALYSIS, name)
        chosen.append(Choice(name))
    return chosen


def apply_overrides(
    choices: Sequence[Choice], overrides: Sequence[str], registry: Registry
) -> list[Choice]:
    """Set options of the chosen analyses, and check the values.

    Raises:
        UsageError: an override is malformed, fits no chosen analysis, or its value is refused.
    """
    from pktkit.options import build_options, describe_options
    from pktkit.recipe import parse_value

    options: dict[str, dict[str, Any]] = {choice.name: dict(choice.options) for choice in choices}
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--set '{text}' must be NAME.option=value or {EVERY}.option=value, "
                "e.g. cka.strategy=seeking."
            )
        name, option = match["name"], match["option"]
        if name != EVERY and name not in options:
            known = [*options, EVERY]
            raise UsageError(
                f"--set '{text}': '{name}' is not among the chosen analyses."
                f"{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
        fields = {
            each: [f.name for f in describe_options(registry.options_class(Kind.ANALYSIS, each))]
            for each in (options if name == EVERY else (name,))
        }
        fitting = [each for each in fields if option in fields[each]]
        if not fitting:
            known = sorted({field for each in fields.values() for field in each})
            raise UsageError(
                f"--set '{text}': no chosen analysis has the option '{option}'."
                f"{did_you_mean(option, known)} Options: {', '.join(known)}."
            )
        for each in fitting:
            options[each][option] = parse_value(match["value"])
    for name, values in options.items():
        build_options(registry.options_class(Kind.ANALYSIS, name), values, f"analysis '{name}'")
    return [Choice(name, values) for name, values in options.items()]

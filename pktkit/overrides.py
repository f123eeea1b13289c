"""Options set on the command line: `--set [strategy:]stage.option=value`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.components import Choice, Kind, Strategy
from pktkit.errors import UsageError, did_you_mean, unknown_name
from pktkit.options import build_options, describe_options
from pktkit.recipe import STAGES, parse_value

if TYPE_CHECKING:
    from pktkit.registry import Registry

_OVERRIDE = re.compile(
    r"(?:(?P<strategy>[^:=\s]+):)?(?P<stage>\w+)\.(?P<option>\w+)=(?P<value>.*)", re.DOTALL
)


@attrs.frozen
class Override:
    """One `--set`: an option of a stage, for one strategy or (None) for all that have it."""

    strategy: str | None
    stage: str
    option: str
    value: Any
    text: str

    def names(self, strategy: Strategy) -> bool:
        """Whether the override speaks of this strategy and the strategy has the stage."""
        if self.strategy not in (None, strategy.name):
            return False
        stage = "injector" if self.stage == "budget" else self.stage
        return getattr(strategy, stage) is not None

    def applied(self, strategy: Strategy) -> Strategy:
        """Return the strategy with the option set."""
        if self.stage == "budget":
            return attrs.evolve(strategy, budget={**strategy.budget, self.option: self.value})
        choice: Choice = getattr(strategy, self.stage)
        options = {**choice.options, self.option: self.value}
        changes: dict[str, Any] = {self.stage: attrs.evolve(choice, options=options)}
        return attrs.evolve(strategy, **changes)


def parse_override(text: str) -> Override:
    """Read `stage.option=value` or `strategy:stage.option=value`; the value is YAML.

    Raises:
        UsageError: the text has another form, or the stage does not exist.
    """
    match = _OVERRIDE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--set '{text}' must be stage.option=value or strategy:stage.option=value, "
            "e.g. aligner.rank=8."
        )
    stages = [*(kind.value for kind in STAGES), "budget"]
    if match["stage"] == "task":
        raise UsageError(
            f"--set '{text}': options of a task stand behind its name: "
            f"--task 'NAME?{match['option']}={match['value']}'."
        )
    if match["stage"] not in stages:
        raise UsageError(
            f"--set '{text}': unknown stage '{match['stage']}'."
            f"{did_you_mean(match['stage'], stages)} Known: {', '.join(stages)}."
        )
    value = parse_value(match["value"])
    return Override(match["strategy"], match["stage"], match["option"], value, text)


def apply_all(
    strategies: Sequence[Strategy], overrides: Iterable[str], registry: Registry
) -> list[Strategy]:
    """Set options on every selected strategy whose component has them, and check the values.

    Budget options apply to strategies with an injector, the only ones that train.

    Raises:
        UsageError: an override is malformed, fits no strategy, or its value is refused.
    """
    result = list(strategies)
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        _apply_one(override, result, registry)
    for strategy in result:
        for stage in {override.stage for override in parsed if override.names(strategy)}:
            where, cls = stage_options(strategy, stage, registry)
            build_options(cls, _options(strategy, stage), where)
    return result


def _apply_one(override: Override, strategies: list[Strategy], registry: Registry) -> None:
    """Replace, in the list, every strategy that the override fits."""
    names = [strategy.name for strategy in strategies]
    if override.strategy is not None and override.strategy not in names:
        raise unknown_name("strategy", override.strategy, names)
    known: list[str] = []
    named = False
    for index, strategy in enumerate(strategies):
        if override.names(strategy):
            named = True
            _, cls = stage_options(strategy, override.stage, registry)
            known += [field.name for field in describe_options(cls) if field.name not in known]
            if override.option in {field.name for field in describe_options(cls)}:
                strategies[index] = override.applied(strategy)
    if override.option not in known:
        raise UsageError(_fits_nothing(override, known, has_stage=named))


def _options(strategy: Strategy, stage: str) -> Mapping[str, Any]:
    """Return the options written for a stage or for the budget."""
    if stage == "budget":
        return strategy.budget
    choice: Choice = getattr(strategy, stage)
    return choice.options


def stage_options(strategy: Strategy, stage: str, registry: Registry) -> tuple[str, type]:
    """Return how to name a stage of a strategy in errors, and the options class behind it."""
    if stage == "budget":
        from pktkit.budget import Budget

        return f"strategy '{strategy.name}': budget", Budget
    choice: Choice = getattr(strategy, stage)
    cls = registry.options_class(Kind(stage), choice.name)
    return f"strategy '{strategy.name}': {stage} '{choice.name}'", cls


def _fits_nothing(override: Override, known: Sequence[str], *, has_stage: bool) -> str:
    """Word the complaint about an override that no selected strategy takes."""
    if not has_stage:
        return f"--set '{override.text}': no selected strategy has the stage '{override.stage}'."
    if not known:
        return f"--set '{override.text}': no {override.stage} of the strategies has options."
    return (
        f"--set '{override.text}': no selected strategy has the option "
        f"'{override.stage}.{override.option}'.{did_you_mean(override.option, known)} "
        f"Options of {override.stage}: {', '.join(known)}."
    )

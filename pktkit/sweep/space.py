"""What is searched: options of a strategy's stages and fields of its budget, with their values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.components import Strategy
from pktkit.converters import as_tuple
from pktkit.errors import UsageError, did_you_mean
from pktkit.options import OptionField, build_options, describe_options
from pktkit.overrides import Override, parse_override, stage_options
from pktkit.recipe import load_document, parse_value

if TYPE_CHECKING:
    from pktkit.registry import Registry

FORMS = "LOW..HIGH, LOW..HIGH:STEP, log:LOW..HIGH, int:LOW..HIGH, or a list A,B,C"

UNEQUAL = ("rows", "steps", "batch_size", "labels", "unlabelled")
"""Budget fields that change how much an arm may see or compute."""

DIGITS = 4
"""Significant digits of a sampled number: recipes are read by people."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(
    rf"(?:(?P<scale>log|int|linear):)?\s*(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})"
    rf"(?::(?P<step>{_NUMBER}))?"
)


@attrs.frozen
class Dimension:
    """One option and the values it may take: a list, or all numbers of a range.

    Arguments:
        stage: `matcher`, `aligner`, `injector` or `budget`.
        option: its name there.
        values: the list; empty for a range.
        low, high: ends of the range, included.
        step: between the range's values; 0 for any number.
        log: whether the logarithm is what is spread evenly.
        whole: whether the range holds whole numbers only.
    """

    stage: str
    option: str
    values: tuple[Any, ...] = attrs.field(default=(), converter=as_tuple)
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def name(self) -> str:
        """What users type: `stage.option`."""
        return f"{self.stage}.{self.option}"

    @property
    def points(self) -> list[Any] | None:
        """All values, where there is a countable number of them; else None."""
        if self.values:
            return list(self.values)
        if self.whole:
            return list(range(int(self.low), int(self.high) + 1, int(self.step) or 1))
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return [_rounded(self.low + place * self.step) for place in range(count)]
        return None

    def value(self, sampled: float) -> Any:
        """Return the option's value for what a sampler gave: a place in the list, or a number."""
        if self.values:
            return self.values[int(sampled)]
        if self.whole:
            return int(sampled)
        return min(max(_rounded(sampled), self.low), self.high)

    def __str__(self) -> str:
        if self.values:
            return ", ".join(str(value) for value in self.values)
        ends = f"{self.low:g}..{self.high:g}" + (f":{self.step:g}" if self.step else "")
        return f"{'log:' if self.log else 'int:' if self.whole else ''}{ends}"


def configured(strategy: Strategy, values: Mapping[str, Any]) -> Strategy:
    """Return a strategy with options set, by `stage.option`."""
    for name, value in values.items():
        stage, option = name.split(".")
        strategy = Override(None, stage, option, value, name).applied(strategy)
    return strategy


def size(space: Sequence[Dimension]) -> int | None:
    """Return how many configurations a space has, or None where it has no end."""
    counts = [dimension.points for dimension in space]
    return None if None in counts else math.prod(len(points or ()) for points in counts)


def parse_space(texts: Sequence[str], strategy: Strategy, registry: Registry) -> list[Dimension]:
    """Read `--space`: each `STAGE.OPTION=VALUES`, or a YAML file of such pairs.

    Every name, type and value is checked, ranges at both ends.

    Arguments:
        texts: as typed.
        strategy: whose options are searched.
        registry: for the options of its components.

    Raises:
        UsageError: there is nothing to search, a name is unknown or given twice, or a value is
            refused.
    """
    space = [
        _dimension(name, given, strategy, registry)
        for text in texts
        for name, given in _pairs(text).items()
    ]
    if not space:
        raise UsageError(
            f"nothing to search: give --space STAGE.OPTION=VALUES, where VALUES is {FORMS}."
        )
    names = [dimension.name for dimension in space]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--space names {name} more than once.")
    return space


def unequal(space: Sequence[Dimension]) -> list[str]:
    """Return the names in a space that give configurations unlike budgets."""
    return [d.name for d in space if d.stage == "budget" and d.option in UNEQUAL]


def _pairs(text: str) -> dict[str, Any]:
    """Return what one `--space` names, with its values as typed or as in the file."""
    if "=" in text:
        name, _, values = text.partition("=")
        return {name.strip(): values.strip()}
    file = Path(text)
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"--space '{text}' must be STAGE.OPTION=VALUES, e.g. injector.layer_weight=log:0.5..20 "
            f"or aligner.map=lens,unit, or a YAML file. VALUES: {FORMS}."
        )
    try:
        content = load_document(file.read_text(encoding="utf-8"), f"space {file}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"space {file} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(
            f"space {file} must map STAGE.OPTION to values, e.g. `aligner.map: [lens, unit]`."
        )
    return {str(name): values for name, values in content.items()}


def _dimension(name: str, given: Any, strategy: Strategy, registry: Registry) -> Dimension:
    where = f"--space {name}"
    try:
        named = parse_override(f"{name}=0")
    except UsageError as error:
        reason = str(error).replace(f"--set '{name}=0'", where)
        reason = reason.replace("stage.option=value or strategy:stage.option=value", "STAGE.OPTION")
        raise UsageError(reason) from error
    if named.strategy is not None:
        raise UsageError(f"{where}: a sweep has one strategy; leave out '{named.strategy}:'.")
    if not named.names(strategy):
        raise UsageError(f"{where}: strategy '{strategy.name}' has no {named.stage}.")
    owner, cls = stage_options(strategy, named.stage, registry)
    fields = {field.name: field for field in describe_options(cls)}
    if named.option not in fields:
        listed = ", ".join(f"{named.stage}.{known}" for known in fields) or "none"
        guess = did_you_mean(named.option, fields)
        raise UsageError(
            f"{where}: {owner} has no option '{named.option}'.{guess} It has {listed}."
        )
    dimension = _read(given, named.stage, fields[named.option], where)
    ends = dimension.values or (dimension.value(dimension.low), dimension.value(dimension.high))
    for value in ends:
        changed = configured(strategy, {dimension.name: value})
        choice = getattr(changed, named.stage)
        try:
            build_options(cls, choice if named.stage == "budget" else choice.options, owner)
        except UsageError as error:
            raise UsageError(f"{where}: {value!r} is refused: {error}") from error
    return dimension


def _read(given: Any, stage: str, field: OptionField, where: str) -> Dimension:
    """Read the values of a dimension: text of the grammar, or a list from YAML."""
    if isinstance(given, str) and (match := _RANGE.fullmatch(given)):
        return _range(match, stage, field, where)
    if isinstance(given, str) and (".." in given or re.match(r"(log|int|linear):", given)):
        raise UsageError(f"{where}: '{given}' is no range. VALUES: {FORMS}.")
    values = parse_value(f"[{given}]") if isinstance(given, str) else given
    if not isinstance(values, list) or len(values) < 2:
        raise UsageError(
            f"{where}: '{given}' leaves no choice. VALUES: {FORMS}; one value: --set "
            f"{stage}.{field.name}=VALUE."
        )
    for value in values:
        if sum(other == value and type(other) is type(value) for other in values) > 1:
            raise UsageError(f"{where}: {value!r} is in the list twice.")
    return Dimension(stage, field.name, values)


def _range(match: re.Match[str], stage: str, field: OptionField, where: str) -> Dimension:
    kinds = field.type.split(" | ")
    if field.choices or not {"int", "float"} & set(kinds):
        what = ", ".join(map(str, field.choices)) or f"type {field.type}"
        raise UsageError(f"{where}: a range is for numbers, and this takes {what}. List values.")
    whole = match["scale"] == "int" or "float" not in kinds
    log = match["scale"] == "log"
    low, high, step = (float(match[part] or 0) for part in ("low", "high", "step"))
    if not low < high or not math.isfinite(high - low):
        raise UsageError(f"{where}: {low:g}..{high:g} must go from the lower to the higher number.")
    if log and low <= 0:
        raise UsageError(f"{where}: a log range must begin above 0, got {low:g}.")
    if log and match["step"]:
        raise UsageError(f"{where}: a log range has no step; list values instead.")
    if match["step"] and not 0 < step <= high - low:
        raise UsageError(f"{where}: step must be above 0 and at most {high - low:g}, got {step:g}.")
    if whole and any(number != int(number) for number in (low, high, step)):
        raise UsageError(
            f"{where}: {low:g}..{high:g}{f':{step:g}' if step else ''} must be whole numbers."
        )
    return Dimension(stage, field.name, low=low, high=high, step=step, log=log, whole=whole)


def _rounded(number: float) -> float:
    return float(f"{number:.{DIGITS}g}")

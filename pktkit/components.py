"""What a plugin registers: component descriptors, and strategies made of named choices.

A plugin registers `Component` descriptors. A descriptor is a name and an import path, so that
listing plugins imports nothing heavy. The class behind the path is loaded when it is chosen.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from pktkit.converters import as_tuple
from pktkit.errors import PluginError
from pktkit.isolation import FAULTS, describe


class Kind(enum.StrEnum):
    """The kinds of component a plugin can register."""

    MATCHER = "matcher"
    ALIGNER = "aligner"
    INJECTOR = "injector"
    EVALUATOR = "evaluator"
    STRATEGY = "strategy"
    TASK = "task"
    ANALYSIS = "analysis"


METHODS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.MATCHER: "match",
        Kind.ALIGNER: "align",
        Kind.INJECTOR: "inject",
        Kind.EVALUATOR: "evaluate",
        Kind.ANALYSIS: "analyse",
    }
)
"""The method that makes a class a component of its kind; `pktkit.protocols` says what it does.
Strategies and tasks are values and have none."""


@attrs.frozen
class Component:
    """A lazily imported component.

    Arguments:
        name: what users type; lower case, words joined by hyphens.
        path: `"package.module:Attribute"`, imported on first use.
        summary: one line for `pktkit plugins list`.
        reference: paper, section or equation the component implements, if any.
        external: for a task whose rows do not come with the package; `--task all` leaves it out.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z0-9][a-z0-9_.-]*"))
    path: str = attrs.field(validator=attrs.validators.matches_re(r"[\w.]+:[\w.]+"))
    summary: str = ""
    reference: str = ""
    external: bool = False

    def load(self) -> Any:
        """Import and return the attribute behind `path`.

        Raises:
            PluginError: the module or the attribute cannot be imported.
        """
        module_name, _, attribute = self.path.partition(":")
        try:
            value: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                value = getattr(value, part)
        except FAULTS as error:
            raise PluginError(
                f"component '{self.name}' cannot be imported from {self.path}: {describe(error)}"
            ) from error
        return value


@attrs.frozen
class Choice:
    """A component chosen by name, with its options as written in a recipe."""

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)


ROLES = ("method", "target", "source", "baseline", "placebo")
"""What a strategy is in a comparison: under test, one of the untouched models, a baseline that
does without the method, or a placebo that takes one ingredient of a method away."""


@attrs.frozen
class Strategy:
    """A named recipe: which matcher, aligner and injector, with which options.

    Arguments:
        name: what users type after `--strategies`.
        matcher, aligner, injector: the three stages; `None` skips a stage (plain fine-tuning
            has no matcher and no aligner; the untouched models have none at all).
        role: one of `ROLES`; all but `method` stand beside every comparison.
        placebo_of: for a placebo, the methods whose ingredient it takes away; empty for all.
        isolates: for a placebo, that ingredient, to follow "profits from".
        budget: fields of `pktkit.budget.Budget` that the method itself fixes.
        summary, reference: for listings and reports.
    """

    name: str
    matcher: Choice | None = None
    aligner: Choice | None = None
    injector: Choice | None = None
    role: str = attrs.field(default="method", validator=attrs.validators.in_(ROLES))
    placebo_of: tuple[str, ...] = attrs.field(default=(), converter=as_tuple)
    isolates: str = ""
    budget: Mapping[str, Any] = attrs.field(factory=dict)
    summary: str = ""
    reference: str = ""

    @property
    def control(self) -> bool:
        """Whether the strategy is a point of reference rather than under test."""
        return self.role != "method"

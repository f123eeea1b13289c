"""What is under test: a component's class with its options, or a strategy."""

from __future__ import annotations

import unittest
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import Capabilities, capabilities_of
from pktkit.components import Choice, Kind, Strategy
from pktkit.errors import PluginError, UsageError
from pktkit.options import build_options

if TYPE_CHECKING:
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task

KINDS = (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR, Kind.EVALUATOR, Kind.STRATEGY)
"""The kinds that have laws."""


class LawViolation(AssertionError):
    """A law does not hold; the message says where and by how much."""


class NotApplicable(unittest.SkipTest):
    """A law does not bind a component, or cannot be tested on it; test runners skip the test."""


@attrs.frozen(eq=False)
class Subject:
    """A component under test.

    Arguments:
        kind: what it is.
        name: for ids and results.
        cls: its class; for a strategy, the `Strategy`.
        options: an instance of its `Options`; None for a strategy.
        capabilities: what it promises.
        registry: what strategies are run with; None for what is installed.
        task: items for an evaluator; None for the kit's own.
        thorough: whether to look at more pairs and examples.
    """

    kind: Kind
    name: str
    cls: Any
    options: Any = None
    capabilities: Capabilities = attrs.field(factory=Capabilities)
    registry: Registry | None = None
    task: Task | None = None
    thorough: bool = False

    @classmethod
    def of(
        cls,
        kind: Kind,
        component: type | Strategy | Choice | str,
        *,
        options: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        task: Task | None = None,
        thorough: bool = False,
    ) -> Subject:
        """Look a component up, if it is given by name, and build its options.

        A required seed or one left open is 0, as a run would fill it.

        Raises:
            UsageError: unknown component or options, or a kind without laws.
            PluginError: it cannot be loaded, or has no `Options`.
        """
        if kind not in KINDS:
            raise UsageError(
                f"kind '{kind}' has no laws; those that have are {', '.join(map(str, KINDS))}."
            )
        given = dict(options or {})
        if isinstance(component, Choice):
            given = {**component.options, **given}
            component = component.name
        name, loaded = _loaded(kind, component, registry)
        if kind is Kind.STRATEGY:
            if given:
                raise UsageError(f"strategy '{name}' takes no options, got {given}.")
            return cls(kind, name, loaded, None, Capabilities(), registry, task, thorough)
        return cls(
            kind,
            name,
            loaded,
            _options(name, loaded, given),
            capabilities_of(loaded),
            registry,
            task,
            thorough,
        )

    def build(self, **changed: Any) -> Any:
        """Return a fresh instance, with some options changed."""
        return self.cls(attrs.evolve(self.options, **changed))

    def require(self, holds: bool, complaint: str) -> None:
        """Raise a violation with the complaint unless the law holds.

        Raises:
            LawViolation: it does not.
        """
        if not holds:
            raise LawViolation(f"{self.kind} '{self.name}': {complaint}")

    def __str__(self) -> str:
        return self.name


def _loaded(kind: Kind, component: Any, registry: Registry | None) -> tuple[str, Any]:
    """Return name and class (or strategy) of what the author gave."""
    if isinstance(component, str):
        from pktkit.registry import Registry

        known = registry or Registry.discover()
        if kind is Kind.STRATEGY:
            return component, known.strategy(component)
        return component, known.get(kind, component).load()
    if kind is Kind.STRATEGY:
        if not isinstance(component, Strategy):
            raise UsageError(f"a strategy or its name is expected, got {component!r}.")
        return component.name, component
    return getattr(component, "__name__", str(component)), component


def _options(name: str, cls: Any, given: Mapping[str, Any]) -> Any:
    options = getattr(cls, "Options", None)
    if not isinstance(options, type):
        raise PluginError(f"component '{name}' has no class attribute 'Options'.")
    built = build_options(options, given, name)
    if getattr(built, "seed", 0) is None:
        built = attrs.evolve(built, seed=0)
    return built

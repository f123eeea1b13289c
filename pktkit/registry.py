"""Choose one component by name, out of what all plugins registered."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import capabilities_of
from pktkit.components import METHODS, Choice, Component, Kind, Strategy
from pktkit.discovery.plugins import (
    BROKEN,
    CLASH,
    OK,
    SHADOWED,
    Plugins,
    PluginSelection,
    PluginStatus,
    load_plugins,
)
from pktkit.errors import PluginError, UsageError, unknown_name
from pktkit.options import build_options, describe_options
from pktkit.recipe import load_recipe
from pktkit.registered import Registered

if TYPE_CHECKING:
    from pktkit.tasks.base import Task
    from pktkit.tasks.reference import TaskReference

HOOKS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.MATCHER: "pktkit_layer_matchers",
        Kind.ALIGNER: "pktkit_latent_aligners",
        Kind.INJECTOR: "pktkit_knowledge_injectors",
        Kind.EVALUATOR: "pktkit_evaluators",
        Kind.STRATEGY: "pktkit_strategies",
        Kind.TASK: "pktkit_tasks",
        Kind.ANALYSIS: "pktkit_analyses",
    }
)
"""The hook that registers each kind."""


@attrs.frozen(eq=False)
class Registry:
    """Everything the plugins registered, by kind and name.

    Arguments:
        plugins: the plugins it was built from; those whose hooks fail are marked broken.
    """

    plugins: Plugins
    _entries: Mapping[Kind, Mapping[str, tuple[Registered, ...]]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_entries", _collect(self.plugins))

    @classmethod
    def discover(cls, selection: PluginSelection | None = None) -> Registry:
        """Load the installed plugins and build their registry."""
        return cls(load_plugins(selection))

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Return the names registered for a kind, in alphabetical order."""
        return tuple(sorted(self._entries[kind]))

    def entries(self, kind: Kind | None = None) -> Iterator[Registered]:
        """Yield every registration of a kind (of all kinds), name clashes included."""
        for each in Kind if kind is None else (kind,):
            for name in self.names(each):
                yield from self._entries[each][name]

    def state(self, registered: Registered) -> str:
        """Return whether its name leads to a registration: `ok`, `clash` or `shadowed`."""
        owners = _owners(self._entries[registered.kind][registered.component.name])
        if registered not in owners:
            return SHADOWED
        return OK if len(owners) == 1 else CLASH

    def clashes(self) -> list[str]:
        """Return one sentence per name of which no component can be chosen."""
        return [
            _claimed_twice(kind, name, _owners(found))
            for kind in Kind
            for name, found in self._entries[kind].items()
            if len(_owners(found)) > 1
        ]

    def shadows(self) -> list[str]:
        """Return one sentence per component that a built-in one of its name stands before."""
        return [
            _shadowed(entry, self._entries[entry.kind][entry.component.name])
            for entry in self.entries()
            if self.state(entry) == SHADOWED
        ]

    def get(self, kind: Kind, name: str) -> Registered:
        """Return the component registered under a name.

        Nobody wins by being installed last. A built-in component keeps its name, so that
        installing a package changes no result of pktkit's own; `shadows` says so.

        Raises:
            UsageError: nobody registered the name; broken plugins are mentioned.
            PluginError: several components claim it.
        """
        found = self._entries[kind].get(name)
        if found is None:
            raise self._unknown(kind, name)
        owners = _owners(found)
        if len(owners) > 1:
            raise PluginError(_claimed_twice(kind, name, owners))
        return owners[0]

    def options_class(self, kind: Kind, name: str) -> type:
        """Return the options class of a component that has options.

        Raises:
            UsageError, PluginError: as `get`; or the component has no `Options`.
        """
        registered = self.get(kind, name)
        return registered.options_of(self._load(registered))

    def build(self, kind: Kind, choice: Choice) -> Any:
        """Load a component, build its options and instantiate it.

        For a strategy the `Strategy` value is returned, for a task the `Task`.

        Raises:
            UsageError: unknown name, or options that do not fit.
            PluginError: the component cannot be loaded or is not what it was registered as.
        """
        registered = self.get(kind, choice.name)
        if kind in (Kind.STRATEGY, Kind.TASK):
            if choice.options:
                raise UsageError(f"{registered.label} takes no options, got {dict(choice.options)}")
            return self.strategy(choice.name) if kind is Kind.STRATEGY else self.task(choice.name)
        cls = self._load(registered)
        options = build_options(registered.options_of(cls), choice.options, registered.label)
        instance = registered.called(cls, options)
        registered.require_method(instance)
        return instance

    def strategy(self, name: str) -> Strategy:
        """Return a registered strategy, given as a `Strategy` or as a recipe's path.

        Raises:
            UsageError: unknown name, or a recipe that cannot be read.
            PluginError: what is registered is no strategy, or has another name.
        """
        strategy: Strategy = self.value(self.get(Kind.STRATEGY, name))
        return strategy

    def task(self, name: str, reference: TaskReference | None = None) -> Task:
        """Return a registered task, freshly made.

        Arguments:
            name: as registered.
            reference: what else the user said: protocol, data and options, for tasks that have
                `Options`.

        Raises:
            UsageError: unknown name, options that do not fit, or data that is not there.
            PluginError: what is registered is no task of that name.
        """
        from pktkit.tasks.base import Task

        registered = self.get(Kind.TASK, name)
        value = self.value(registered)
        if isinstance(value, type):
            argument = getattr(value, "argument", "protocol")
            given = {} if reference is None else reference.as_options(argument)
            options = build_options(registered.options_of(value), given, registered.label)
            family = registered.called(value, options)
            value = registered.checked(registered.called(family.task), Task)
        elif reference is not None and not reference.bare:
            raise UsageError(
                f"task '{name}' takes no protocol, data or options; type `--task {name}`."
            )
        task: Task = value
        return task

    def value(self, registered: Registered) -> Any:
        """Return what a registration stands for: a class, a `Strategy`, or a `Task` freshly made.

        A task that takes options is registered as a class, and the class is returned.

        Raises:
            UsageError: a strategy's recipe cannot be read.
            PluginError: it cannot be loaded, or is not what it was registered as.
        """
        value = self._load(registered)
        if registered.kind is Kind.STRATEGY:
            if isinstance(value, (str, pathlib.Path)):
                value = load_recipe(value)
            return registered.checked(value, Strategy)
        if registered.kind is Kind.TASK:
            from pktkit.tasks.base import Task

            if isinstance(value, type) and hasattr(value, "Options"):
                describe_options(registered.options_of(value))
                return value
            return registered.checked(registered.called(value), Task)
        return value

    def require_sound(self, registered: Registered) -> None:
        """Load a component and check its parts, without building it.

        Raises:
            UsageError, PluginError: it cannot be used; the message says why.
        """
        value = self.value(registered)
        if registered.kind is Kind.STRATEGY:
            for kind in (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR):
                choice = getattr(value, kind.value)
                if choice is not None:
                    self.get(kind, choice.name)
        if registered.kind not in METHODS:
            return
        describe_options(registered.options_of(value))
        capabilities_of(value)
        registered.require_method(value)

    def _load(self, registered: Registered) -> Any:
        return registered.load(self.plugins.trace)

    def _unknown(self, kind: Kind, name: str) -> UsageError:
        """Build the error for an unknown name, and say which plugins might have had it."""
        error = unknown_name(kind, name, self.names(kind))
        away = [s for s in self.plugins.loaded if s.state in (BROKEN, SHADOWED)]
        if not away:
            return error
        reasons = "; ".join(f"{status.label}: {status.error}" for status in away)
        return UsageError(f"{error} Broken plugins: {reasons}.")


def _collect(plugins: Plugins) -> Mapping[Kind, Mapping[str, tuple[Registered, ...]]]:
    """Call every registration hook; a plugin that fails in one contributes nothing at all."""
    collected: list[tuple[PluginStatus, Registered]] = []
    for kind, hook in HOOKS.items():
        for status, components in plugins.collect(hook, _read_components):
            collected += [
                (
                    status,
                    Registered(kind, component, status.name, status.distribution, status.version),
                )
                for component in components
            ]
    healthy = {status.name for status in plugins.loaded if status.state == OK}
    entries: dict[Kind, dict[str, tuple[Registered, ...]]] = {kind: {} for kind in Kind}
    for status, registered in collected:
        if status.name in healthy:
            same = entries[registered.kind].get(registered.component.name, ())
            entries[registered.kind][registered.component.name] = (*same, registered)
    return entries


def _read_components(result: Any) -> tuple[Component, ...]:
    """Exhaust what a registration hook returned; anything but components is an error."""
    components = (result,) if isinstance(result, Component) else tuple(result)
    for component in components:
        if not isinstance(component, Component):
            raise TypeError(f"it must return Component descriptors, got {component!r}")
    return components


def _owners(found: tuple[Registered, ...]) -> tuple[Registered, ...]:
    """Return who has a name: the built-in components among those that claim it, else all."""
    return tuple(entry for entry in found if entry.built_in) or found


def _claimed_twice(kind: Kind, name: str, found: tuple[Registered, ...]) -> str:
    """Word the complaint about one name with several components."""
    owners = " and ".join(f"{entry.qualified} ({entry.origin})" for entry in found)
    return (
        f"the {kind} name '{name}' is claimed by {owners}. "
        f"Switch one plugin off, e.g. `--no-plugins={found[-1].plugin}`."
    )


def _shadowed(entry: Registered, found: tuple[Registered, ...]) -> str:
    """Word why a component cannot be chosen beside a built-in one of its name."""
    kept = _owners(found)[0]
    return (
        f"{entry.label} is shadowed: the name belongs to {kept.label}, which stays in use. Ask "
        f"its author for another name, or use it instead of the built-in plugin with "
        f"`--no-plugins={kept.distribution}:{kept.plugin}`."
    )

"""What is installed: the entry points of every distribution, and what is wrong with a module.

Nothing is imported before it is asked for.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from importlib import metadata
from typing import Any

import attrs
import pluggy

from pktkit import hookspecs
from pktkit.errors import did_you_mean
from pktkit.isolation import one_line

OK = "ok"
BROKEN = "broken"
BLOCKED = "blocked"
SHADOWED = "shadowed"
CLASH = "clash"
"""A state of components alone: several plugins claim the name, so nobody has it."""


@attrs.frozen
class PluginStatus:
    """What became of one plugin.

    Arguments:
        name: entry-point name.
        distribution, version: the installed package that provides it.
        state: `"ok"`, `"broken"`, `"blocked"`, or `"shadowed"` by a built-in plugin of its name.
        error: one line, when broken or shadowed.
        import_seconds: wall time of the import.
        api: the `PKTKIT_API` it declares; None where it declares none or was not imported.
        value: what the entry point names.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: str = OK
    error: str = ""
    import_seconds: float = 0.0
    api: int | None = None
    value: str = ""

    @property
    def built_in(self) -> bool:
        """Whether pktkit's own distribution provides it."""
        return self.distribution == hookspecs.PROJECT

    @property
    def qualified(self) -> str:
        """`distribution:name`, unique among installed plugins."""
        return f"{self.distribution}:{self.name}"

    @property
    def label(self) -> str:
        """The plugin with its distribution and version, for messages."""
        origin = f"{self.distribution} {self.version}".strip()
        return f"plugin '{self.name}' ({origin})" if origin else f"plugin '{self.name}'"


@attrs.frozen
class Found:
    """A plugin before it is loaded."""

    status: PluginStatus
    load: Callable[[], Any]


def installed_plugins() -> Iterator[Found]:
    """Yield the entry points of every installed distribution.

    Distribution by distribution, not `metadata.entry_points(group=...)`: one package with
    malformed metadata must not hide the others.
    """
    seen = set()
    for distribution in metadata.distributions():
        try:
            name, version = _header(distribution)
        except Exception:
            continue
        key = name.lower().replace("_", "-")
        if key in seen:
            continue
        seen.add(key)
        try:
            points = [p for p in distribution.entry_points if p.group == hookspecs.PROJECT]
        except Exception as error:
            broken = PluginStatus(f"{name}:?", name, version, value="?")
            yield Found(broken, _raiser(f"its entry points are malformed: {error}"))
            continue
        for point in points:
            yield Found(PluginStatus(point.name, name, version, value=point.value), point.load)


def _header(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return a distribution's name and version.

    Not by `distribution.metadata`: parsing whole descriptions of everything that is installed
    takes longer than the rest of loading plugins.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    lines = text.partition("\n\n")[0].splitlines()
    fields = {key.lower(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    return fields.get("name", ""), fields.get("version", "")


def _raiser(message: str) -> Callable[[], Any]:
    """Return a loader that fails with `message`."""

    def load() -> Any:
        raise ValueError(message)

    return load


def claimed_twice(candidates: Sequence[Found]) -> str:
    """Word the complaint about one entry-point name with several owners."""
    statuses = [found.status for found in candidates]
    owners = " and ".join(
        f"{s.distribution or 'extra'} {s.version}".strip() + f" ({s.value})" for s in statuses
    )
    return (
        f"the entry-point name '{statuses[0].name}' is claimed by {owners}; uninstall or rename "
        f"one, or choose with `--no-plugins={statuses[-1].qualified}`"
    )


def shadowed(kept: PluginStatus) -> str:
    """Word why a plugin is not loaded beside a built-in one of its name."""
    return (
        f"the entry-point name '{kept.name}' belongs to {kept.distribution} {kept.version} "
        f"({kept.value}), which stays in use; ask its author to rename it, or use it instead of "
        f"the built-in plugin with `--no-plugins={kept.qualified}`"
    )


def objection(plugin: Any, name: str, manager: pluggy.PluginManager) -> str:
    """Say what is wrong with a plugin's hooks, or nothing. Checked in a manager of its own."""
    version = getattr(plugin, "PKTKIT_API", hookspecs.API_VERSION)
    if version != hookspecs.API_VERSION:
        return (
            f"it was written for plugin API {version}, this pktkit offers "
            f"{hookspecs.API_VERSION}; install versions that fit each other"
        )
    if not isinstance(plugin, Hashable):
        return f"it is a {type(plugin).__name__}, which is not hashable; use a module"
    if manager.is_registered(plugin):
        return f"it is the same object as plugin '{manager.get_name(plugin)}'"
    known = [hook for hook in vars(hookspecs) if hook.startswith("pktkit_")]
    for attribute, value in inspect.getmembers_static(plugin, inspect.isfunction):
        marked = hasattr(value, "pktkit_impl")
        foreign = hasattr(value, "pktkit_spec") or value.__module__ == hookspecs.__name__
        if attribute in known and not marked and not foreign:
            return f"'{attribute}' lacks the decorator `@pktkit.hookspecs.hookimpl`"
    alone = new_manager()
    try:
        with warnings.catch_warnings():
            # Of deprecated hooks the registration that counts will warn; once is enough.
            warnings.simplefilter("ignore", FutureWarning)
            alone.register(plugin, name)
        alone.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [hook for hook in vars(alone.hook) if not hook.startswith("_")]
        unknown = [hook for hook in unknown if hook not in known]
        if unknown:
            return f"unknown hook '{unknown[0]}'.{did_you_mean(unknown[0], known)}"
        return one_line(error)
    return ""


def new_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hook specs and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager

"""Discovery of plugins: each one loaded, checked and called in isolation.

A plugin is a module (or object) named by an entry point of the group `pktkit`. Whatever is wrong
with one plugin is written down in its `PluginStatus` and the others go on, so that
`pktkit plugins list` works with every plugin broken.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import pluggy

from pktkit.discovery.installed import (
    BLOCKED,
    BROKEN,
    CLASH,
    OK,
    SHADOWED,
    Found,
    PluginStatus,
    claimed_twice,
    installed_plugins,
    new_manager,
    objection,
    shadowed,
)
from pktkit.errors import did_you_mean
from pktkit.hookspecs import API_VERSION
from pktkit.isolation import FAULTS, describe, stdout_to_stderr
from pktkit.tracing import Trace

__all__ = [
    "BLOCKED",
    "BROKEN",
    "CLASH",
    "OK",
    "SHADOWED",
    "PluginSelection",
    "PluginStatus",
    "Plugins",
    "load_plugins",
]

ENVIRONMENT_VARIABLE = "PKTKIT_PLUGINS"
EVERY_PLUGIN = "*"
"""The value of `--no-plugins` when it is given without names."""


@attrs.frozen
class PluginSelection:
    """Which entry points may be loaded.

    A plugin is named by its entry point, or by `distribution:entry-point` where two
    distributions use one name.

    Arguments:
        only: if not None, nothing else is loaded; the empty tuple loads nothing.
        blocked: never loaded; `"*"` blocks every plugin.
    """

    only: tuple[str, ...] | None = None
    blocked: tuple[str, ...] = ()

    @classmethod
    def from_user(
        cls, no_plugins: str | None = None, environ: Mapping[str, str] | None = None
    ) -> PluginSelection:
        """Read the selection from `--no-plugins` and the variable `PKTKIT_PLUGINS`.

        Arguments:
            no_plugins: None when the option is absent, `"*"` without names, else a comma list.
            environ: the environment; the process's own by default.
        """
        wanted = (os.environ if environ is None else environ).get(ENVIRONMENT_VARIABLE)
        return cls(
            only=None if wanted is None else _names(wanted),
            blocked=() if no_plugins is None else _names(no_plugins),
        )

    def allows(self, name: str, distribution: str = "") -> bool:
        """Whether the entry point of the distribution may be loaded."""
        names = {name, f"{distribution}:{name}"}
        if EVERY_PLUGIN in self.blocked or names & set(self.blocked):
            return False
        return self.only is None or bool(names & set(self.only))

    def unknown(self, installed: Iterable[PluginStatus]) -> Iterator[str]:
        """Yield one sentence for each selected name that no distribution provides."""
        names = [status.name for status in installed]
        known = {*names, *(status.qualified for status in installed), EVERY_PLUGIN}
        for source, chosen in ((ENVIRONMENT_VARIABLE, self.only), ("--no-plugins", self.blocked)):
            for name in chosen or ():
                if name not in known:
                    yield f"{source} names '{name}', which is not installed." + did_you_mean(
                        name, names
                    )


@attrs.define
class Plugins:
    """The loaded plugins. Passed around; there is no global one.

    Arguments:
        manager: holds the hook specs and the plugins that are in order.
        notices: sentences about the selection itself, such as misspelt names.
        trace: told about every load and every hook call.
    """

    manager: pluggy.PluginManager = attrs.field(factory=new_manager)
    notices: tuple[str, ...] = ()
    trace: Trace = attrs.field(factory=Trace)
    _statuses: list[PluginStatus] = attrs.field(factory=list)
    _warned: set[str] = attrs.field(factory=set)

    @property
    def loaded(self) -> tuple[PluginStatus, ...]:
        """Every plugin that was found, by name, whatever its state."""
        return tuple(self._statuses)

    @property
    def hook(self) -> Any:
        """The pluggy hook relay, unguarded; prefer `collect`."""
        return self.manager.hook

    def status(self, name: str) -> PluginStatus:
        """Return the status of a plugin that was found, the one that is in use where two are."""
        found = [status for status in self._statuses if status.name == name]
        return min(found, key=lambda status: status.state != OK)

    def plugin(self, name: str) -> Any:
        """Return the module behind a plugin that is in order, else None."""
        return self.manager.get_plugin(name)

    def collect(
        self, hook: str, read: Callable[[Any], Any] = tuple, **arguments: Any
    ) -> list[tuple[PluginStatus, Any]]:
        """Call a hook in each plugin by itself; one that raises becomes broken.

        Arguments:
            hook: name of the hook.
            read: applied to each plugin's result inside the guard, since results may be lazy.
            arguments: the hook's arguments.

        Returns:
            Status and result of every plugin that implements the hook and did not fail.
        """
        results = []
        present = self.manager.get_plugins()
        for name, plugin in list(self.manager.list_name_plugin()):
            caller = self.manager.subset_hook_caller(hook, present - {plugin})
            if not any(each.plugin is plugin for each in caller.get_hookimpls()):
                continue
            status = self.status(name)
            try:
                with stdout_to_stderr(), self.trace.event("hook", f"{hook} of {status.label}") as t:
                    values = [read(value) for value in caller(**arguments)]
                    t.text = ", ".join(_counted(value) for value in values)
            except FAULTS as error:
                self.mark_broken(name, f"{hook} failed: {describe(error)}")
                continue
            results += [(status, value) for value in values]
        return results

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook whose results do not matter."""
        self.collect(hook, read=lambda value: value, **arguments)

    def mark_broken(self, name: str, error: str) -> None:
        """Write down why a plugin is broken, and call it no more."""
        status = self.status(name)
        broken = attrs.evolve(status, state=BROKEN, error=error)
        self._statuses[:] = [broken if s is status else s for s in self._statuses]
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def warnings(self) -> list[str]:
        """Return one line per plugin that is broken or shadowed, and per notice."""
        wrong = [s for s in self._statuses if s.state in (BROKEN, SHADOWED)]
        return [*self.notices, *(f"{s.label} is {s.state}: {s.error}" for s in wrong)]

    def emit_warnings(self, emit: Callable[[str], Any], further: Iterable[str] = ()) -> None:
        """Pass each warning, and each further line, to `emit` once however often this is called."""
        for line in [*self.warnings(), *further]:
            if line not in self._warned:
                self._warned.add(line)
                emit(line)


def load_plugins(
    selection: PluginSelection | None = None,
    *,
    extra: Mapping[str, object] | None = None,
    trace: Trace | None = None,
) -> Plugins:
    """Find, load and check plugins. Never raises because of a plugin.

    Arguments:
        selection: which entry points may be loaded; all by default.
        extra: further plugins by name, already imported; the selection does not apply to them.
        trace: told about every load and every hook call.
    """
    selection = selection or PluginSelection()
    installed = sorted(
        installed_plugins(), key=lambda found: (found.status.name, found.status.distribution)
    )
    plugins = Plugins(
        notices=tuple(selection.unknown([found.status for found in installed])),
        trace=trace or Trace(),
    )
    candidates = []
    for found in installed:
        if selection.allows(found.status.name, found.status.distribution):
            candidates.append(found)
        else:
            plugins._statuses.append(attrs.evolve(found.status, state=BLOCKED))
    for name, plugin in (extra or {}).items():
        status = PluginStatus(name, value=getattr(plugin, "__name__", type(plugin).__name__))
        candidates.append(Found(status, lambda plugin=plugin: plugin))  # type: ignore[misc]
    for same_name in _by_name(candidates):
        chosen = _owner(plugins, same_name)
        if chosen is not None:
            _load_one(plugins, chosen)
    plugins._statuses.sort(key=lambda status: (status.name, status.distribution))
    return plugins


def _by_name(candidates: Iterable[Found]) -> list[list[Found]]:
    """Group by entry-point name, names of built-in plugins first.

    First, so that a foreign entry point to a built-in module is the one that comes too late.
    """
    groups: dict[str, list[Found]] = {}
    for found in candidates:
        groups.setdefault(found.status.name, []).append(found)
    return sorted(
        groups.values(),
        key=lambda group: (not any(f.status.built_in for f in group), group[0].status.name),
    )


def _owner(plugins: Plugins, candidates: Sequence[Found]) -> Found | None:
    """Return who has a name, and write down why the others have not.

    Nobody wins by being installed last. A built-in plugin keeps its name, so that installing a
    package never switches a part of pktkit off; the other one is shadowed, with a warning.
    """
    if len(candidates) == 1:
        return candidates[0]
    kept = next((found for found in candidates if found.status.built_in), None)
    error = claimed_twice(candidates) if kept is None else shadowed(kept.status)
    state = BROKEN if kept is None else SHADOWED
    plugins._statuses += [
        attrs.evolve(found.status, state=state, error=error)
        for found in candidates
        if found is not kept
    ]
    return kept


def _load_one(plugins: Plugins, found: Found) -> None:
    """Import one plugin, check it alone, and register it if it is in order."""
    # What is released together with pktkit knows its API without saying so.
    api = API_VERSION if found.status.built_in else None
    error, started = "", time.perf_counter()
    try:
        with stdout_to_stderr(), plugins.trace.event("load", found.status.label) as traced:
            plugin = found.load()
            api = getattr(plugin, "PKTKIT_API", api)
            error = objection(plugin, found.status.name, plugins.manager)
            traced.text = f"broken: {error}" if error else ""
            if not error:
                plugins.manager.register(plugin, found.status.name)
    except FAULTS as raised:
        error = describe(raised)
    seconds = time.perf_counter() - started
    plugins._statuses.append(
        attrs.evolve(
            found.status,
            state=BROKEN if error else OK,
            error=error,
            import_seconds=seconds,
            api=api if isinstance(api, int) else None,
        )
    )


def _names(text: str) -> tuple[str, ...]:
    """Split a comma list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _counted(value: Any) -> str:
    """Say how many components or sections a hook gave."""
    return f"{len(value)} given" if isinstance(value, tuple) else ""

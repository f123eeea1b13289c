"""Discovery of plugins: each one loaded, checked and called in isolation.

A plugin is a module (or object) named by an entry point of the group `pktkit`. Whatever is wrong
with one plugin is written down in its `PluginStatus` and the others go on, so that
`pktkit plugins list` works with every plugin broken.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from importlib import metadata
from typing import Any

import attrs
import pluggy

from pktkit import hookspecs
from pktkit.errors import did_you_mean

ENVIRONMENT_VARIABLE = "PKTKIT_PLUGINS"
EVERY_PLUGIN = "*"
"""The value of `--no-plugins` when it is given without names."""

OK = "ok"
BROKEN = "broken"
BLOCKED = "blocked"


@attrs.frozen
class PluginSelection:
    """Which entry points may be loaded.

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

    def allows(self, name: str) -> bool:
        """Whether the entry point may be loaded."""
        if EVERY_PLUGIN in self.blocked or name in self.blocked:
            return False
        return self.only is None or name in self.only

    def unknown(self, names: list[str]) -> Iterator[str]:
        """Yield one sentence for each selected name that no distribution provides."""
        for source, chosen in ((ENVIRONMENT_VARIABLE, self.only), ("--no-plugins", self.blocked)):
            for name in chosen or ():
                if name not in names and name != EVERY_PLUGIN:
                    yield f"{source} names '{name}', which is not installed." + did_you_mean(
                        name, names
                    )


@attrs.frozen
class PluginStatus:
    """What became of one plugin.

    Arguments:
        name: entry-point name.
        distribution, version: the installed package that provides it.
        state: `"ok"`, `"broken"` or `"blocked"`.
        error: one line, when broken.
        import_seconds: wall time of the import.
    """

    name: str
    distribution: str = ""
    version: str = ""
    state: str = OK
    error: str = ""
    import_seconds: float = 0.0

    @property
    def label(self) -> str:
        """The plugin with its distribution and version, for messages."""
        origin = f"{self.distribution} {self.version}".strip()
        return f"plugin '{self.name}' ({origin})" if origin else f"plugin '{self.name}'"


@attrs.define
class Plugins:
    """The loaded plugins. Passed around; there is no global one.

    Arguments:
        manager: holds the hook specs and the plugins that are in order.
        notices: sentences about the selection itself, such as misspelt names.
    """

    manager: pluggy.PluginManager = attrs.field(factory=lambda: _new_manager())
    notices: tuple[str, ...] = ()
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
        """Return the status of a plugin that was found."""
        return next(status for status in self._statuses if status.name == name)

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
            try:
                with _stdout_to_stderr():
                    values = [read(value) for value in caller(**arguments)]
            except (Exception, SystemExit) as error:
                self.mark_broken(name, f"{hook} failed: {_describe(error)}")
                continue
            results += [(self.status(name), value) for value in values]
        return results

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call an observer hook whose results do not matter."""
        self.collect(hook, read=lambda value: value, **arguments)

    def mark_broken(self, name: str, error: str) -> None:
        """Write down why a plugin is broken, and call it no more."""
        broken = attrs.evolve(self.status(name), state=BROKEN, error=error)
        self._statuses[:] = [broken if s.name == name else s for s in self._statuses]
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def warnings(self) -> list[str]:
        """Return one line per broken plugin and per notice."""
        broken = [s for s in self._statuses if s.state == BROKEN]
        return [*self.notices, *(f"{s.label} is broken: {s.error}" for s in broken)]

    def emit_warnings(self, emit: Callable[[str], Any]) -> None:
        """Pass each warning to `emit`, once however often this is called."""
        for line in self.warnings():
            if line not in self._warned:
                self._warned.add(line)
                emit(line)


@attrs.frozen
class _Found:
    """A plugin before it is loaded."""

    status: PluginStatus
    value: str
    load: Callable[[], Any]


def load_plugins(
    selection: PluginSelection | None = None, *, extra: Mapping[str, object] | None = None
) -> Plugins:
    """Find, load and check plugins. Never raises because of a plugin.

    Arguments:
        selection: which entry points may be loaded; all by default.
        extra: further plugins by name, already imported; the selection does not apply to them.
    """
    selection = selection or PluginSelection()
    found = sorted(_installed(), key=lambda each: (each.status.name, each.status.distribution))
    given = [
        _Found(PluginStatus(name), repr(plugin), lambda plugin=plugin: plugin)  # type: ignore[misc]
        for name, plugin in (extra or {}).items()
    ]
    notices = tuple(selection.unknown([candidate.status.name for candidate in found]))
    plugins = Plugins(notices=notices)
    by_name: dict[str, list[_Found]] = {}
    for candidate in found + given:
        by_name.setdefault(candidate.status.name, []).append(candidate)
    for name, candidates in by_name.items():
        allowed = selection.allows(name) or name in (extra or {})
        if not allowed:
            plugins._statuses += [attrs.evolve(c.status, state=BLOCKED) for c in candidates]
        elif len(candidates) > 1:
            error = _claimed_twice(name, candidates)
            plugins._statuses += [
                attrs.evolve(c.status, state=BROKEN, error=error) for c in candidates
            ]
        else:
            _load_one(plugins, candidates[0])
    return plugins


def _load_one(plugins: Plugins, found: _Found) -> None:
    """Import one plugin, check it alone, and register it if it is in order."""
    started = time.perf_counter()
    try:
        with _stdout_to_stderr():
            plugin = found.load()
            error = _objection(plugin, found.status.name, plugins.manager)
            if not error:
                plugins.manager.register(plugin, found.status.name)
    except (Exception, SystemExit) as raised:
        error = _describe(raised)
    seconds = time.perf_counter() - started
    state = BROKEN if error else OK
    plugins._statuses.append(
        attrs.evolve(found.status, state=state, error=error, import_seconds=seconds)
    )


def _objection(plugin: Any, name: str, manager: pluggy.PluginManager) -> str:
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
    alone = _new_manager()
    try:
        alone.register(plugin, name)
        alone.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [hook for hook in vars(alone.hook) if not hook.startswith("_")]
        unknown = [hook for hook in unknown if hook not in known]
        if unknown:
            return f"unknown hook '{unknown[0]}'.{did_you_mean(unknown[0], known)}"
        return _one_line(error)
    return ""


def _installed() -> Iterator[_Found]:
    """Yield the entry points of every installed distribution.

    Distribution by distribution, not `metadata.entry_points(group=...)`: one package with
    malformed metadata must not hide the others.
    """
    seen = set()
    for distribution in metadata.distributions():
        try:
            name = distribution.metadata["Name"] or ""
            version = distribution.version or ""
        except Exception:
            continue
        key = name.lower().replace("_", "-")
        if key in seen:
            continue
        seen.add(key)
        try:
            points = [p for p in distribution.entry_points if p.group == hookspecs.PROJECT]
        except Exception as error:
            broken = PluginStatus(f"{name}:?", name, version)
            yield _Found(broken, "?", _raiser(f"its entry points are malformed: {error}"))
            continue
        for point in points:
            yield _Found(PluginStatus(point.name, name, version), point.value, point.load)


def _raiser(message: str) -> Callable[[], Any]:
    """Return a loader that fails with `message`."""

    def load() -> Any:
        raise ValueError(message)

    return load


def _claimed_twice(name: str, candidates: list[_Found]) -> str:
    """Word the complaint about one entry-point name with several owners."""
    owners = " and ".join(
        f"{c.status.distribution or 'extra'} {c.status.version}".strip() + f" ({c.value})"
        for c in candidates
    )
    return f"the entry-point name '{name}' is claimed by {owners}; uninstall or rename one"


def _new_manager() -> pluggy.PluginManager:
    """Return a manager that knows the hook specs and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Keep what plugins print out of the result that pktkit writes to stdout."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _names(text: str) -> tuple[str, ...]:
    """Split a comma list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _describe(error: BaseException) -> str:
    """Return the type and text of an exception in one line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    return f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    """Return an exception's text without line breaks."""
    return " ".join(str(error).split())

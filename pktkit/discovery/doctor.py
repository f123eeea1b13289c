"""What is wrong with the installed plugins, or will be."""

from __future__ import annotations

import enum
import inspect
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence

import attrs

from pktkit import hookspecs
from pktkit.discovery.plugins import BROKEN, OK, SHADOWED, Plugins, PluginStatus
from pktkit.errors import PktkitError, did_you_mean
from pktkit.registry import Registry

SLOW_SECONDS = 0.5
"""An import that takes longer is felt before every command that loads plugins."""

HEAVY_MODULES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "evaluate",
    "scipy",
    "sklearn",
    "pandas",
    "matplotlib",
    "tensorflow",
    "jax",
)
"""What a plugin's module leaves to the modules of its components."""

_IMPORT_TIMEOUT = 120
_MARK = "heavy modules: "
_IMPORT = f"""
import importlib, json, sys
paths, names, heavy = json.loads(sys.argv[1])
sys.path[:] = paths
result, sys.stdout = sys.stdout, sys.stderr
for name in names:
    try:
        importlib.import_module(name)
    except BaseException:
        pass
print({_MARK!r} + json.dumps([each for each in heavy if each in sys.modules]), file=result)
"""


class Severity(enum.StrEnum):
    """ERROR: something cannot be used. WARNING: it works, but not well. NOTE: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@attrs.frozen
class Finding:
    """One thing the doctor found.

    Arguments:
        severity: errors first.
        check: `broken`, `component`, `clash`, `shadowed`, `misspelt-hook`, `heavy-import`,
            `slow-import`, `api`, `empty` or `selection`.
        message: what is wrong and what to do.
        plugin, distribution, version: whose fault; empty where it is nobody's alone.
    """

    severity: Severity
    check: str
    message: str
    plugin: str = ""
    distribution: str = ""
    version: str = ""


def examine(registry: Registry) -> list[Finding]:
    """Return everything that is wrong, errors first.

    Loads every component, and imports the modules of all plugins once more in a process of its
    own to see what they drag in.
    """
    plugins = registry.plugins
    sound = [status for status in plugins.loaded if status.state == OK]
    findings = [*_out_of_use(plugins), *_components(registry), *_clashes(registry)]
    for status in sound:
        findings += _hooks(plugins, status)
        findings += _drift(plugins, status)
        findings += _idle(registry, status)
        if status.import_seconds > SLOW_SECONDS:
            message = f"importing it took {status.import_seconds:.1f} s; {_ADVICE}"
            findings.append(_finding(Severity.WARNING, "slow-import", message, status))
    findings += _heavy(sound)
    findings += [Finding(Severity.NOTE, "selection", text) for text in plugins.notices]
    order = list(Severity)
    return sorted(findings, key=lambda finding: (order.index(finding.severity), finding.plugin))


_ADVICE = (
    "a plugin's module should only register; put imports into the modules of its components, "
    "which are loaded when they are chosen"
)


def _finding(severity: Severity, check: str, message: str, status: PluginStatus) -> Finding:
    return Finding(severity, check, message, status.name, status.distribution, status.version)


def _out_of_use(plugins: Plugins) -> Iterator[Finding]:
    for status in plugins.loaded:
        if status.state == BROKEN:
            yield _finding(Severity.ERROR, "broken", status.error, status)
        elif status.state == SHADOWED:
            yield _finding(Severity.WARNING, "shadowed", status.error, status)


def _components(registry: Registry) -> Iterator[Finding]:
    """Load every component; what cannot be loaded cannot be used."""
    for entry in registry.entries():
        try:
            registry.require_sound(entry)
        except PktkitError as error:
            status = registry.plugins.status(entry.plugin)
            yield _finding(Severity.ERROR, "component", str(error), status)


def _clashes(registry: Registry) -> Iterator[Finding]:
    for text in registry.clashes():
        yield Finding(Severity.ERROR, "clash", text)
    for text in registry.shadows():
        yield Finding(Severity.WARNING, "shadowed", text)


def _hooks(plugins: Plugins, status: PluginStatus) -> Iterator[Finding]:
    """Find functions that look like hooks, but are called by nobody."""
    known = [hook for hook in vars(hookspecs) if hook.startswith("pktkit_")]
    plugin = plugins.plugin(status.name)
    for name, value in inspect.getmembers_static(plugin, inspect.isfunction):
        if name.startswith("pktkit_") and name not in known and not hasattr(value, "pktkit_impl"):
            message = f"'{name}' is no hook, and nothing calls it.{did_you_mean(name, known)}"
            yield _finding(Severity.WARNING, "misspelt-hook", message, status)


def _drift(plugins: Plugins, status: PluginStatus) -> Iterator[Finding]:
    """Find deprecated hooks, and plugins released apart from pktkit that name no API."""
    for caller in plugins.manager.get_hookcallers(plugins.plugin(status.name)) or ():
        if caller.spec is not None and caller.spec.warn_on_impl is not None:
            message = f"'{caller.name}' is deprecated: {caller.spec.warn_on_impl}"
            yield _finding(Severity.WARNING, "api", message, status)
    if status.api is None and status.distribution and not status.built_in:
        message = (
            "it does not say which plugin API it was written for, so that a change of the API "
            f"shows as an odd failure; add `PKTKIT_API = {hookspecs.API_VERSION}` to its module"
        )
        yield _finding(Severity.NOTE, "api", message, status)


def _idle(registry: Registry, status: PluginStatus) -> Iterator[Finding]:
    plugin = registry.plugins.plugin(status.name)
    if not registry.plugins.manager.get_hookcallers(plugin):
        message = "it implements no hook; mark its functions with `@pktkit.hookspecs.hookimpl`"
        yield _finding(Severity.NOTE, "empty", message, status)


def _heavy(statuses: Sequence[PluginStatus]) -> Iterator[Finding]:
    """Find plugins whose import alone loads a heavy library.

    All are imported together first: where nothing heavy turns up, that one process was enough.
    """
    installed = [status for status in statuses if status.distribution]
    if not heavy_imports(map(_module, installed)):
        return
    for status in installed:
        heavy = heavy_imports([_module(status)])
        if heavy:
            message = f"importing it loads {', '.join(heavy)}; {_ADVICE}"
            yield _finding(Severity.WARNING, "heavy-import", message, status)


def heavy_imports(modules: Iterable[str]) -> tuple[str, ...]:
    """Return which of `HEAVY_MODULES` are loaded when modules are imported in a fresh process."""
    asked = json.dumps([sys.path, list(modules), HEAVY_MODULES])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, asked],
            capture_output=True,
            text=True,
            timeout=_IMPORT_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return (f"nothing within {_IMPORT_TIMEOUT} s",)
    _, mark, found = done.stdout.rpartition(_MARK)
    if not mark:
        return ("nothing, and ends the process",)
    return tuple(json.loads(found))


def _module(status: PluginStatus) -> str:
    return status.value.partition(":")[0].partition("[")[0].strip()

"""What all sub-commands share: logging, plugins and the registry, each made when first needed."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import click

from pktkit import logs
from pktkit.discovery.plugins import Plugins, PluginSelection, load_plugins
from pktkit.errors import UsageError
from pktkit.registry import Registry
from pktkit.tracing import Trace, TraceEvent


@attrs.define(slots=False)
class AppContext:
    """The state of one invocation of the command line.

    Arguments:
        verbosity: -1 quiet, 0 normal, 1 verbose.
        no_plugins: value of `--no-plugins`; None when absent, `"*"` without names.
        trace_plugins: whether stderr gets a line for everything that a plugin does.
        chosen: the plugins that may be loaded, where a run's lock says it instead of the user.
    """

    verbosity: int = logs.NORMAL
    no_plugins: str | None = None
    trace_plugins: bool = False
    chosen: PluginSelection | None = None

    @functools.cached_property
    def selection(self) -> PluginSelection:
        """Which plugins may be loaded; worker processes need the same."""
        return self.chosen or PluginSelection.from_user(self.no_plugins)

    def with_selection(self, selection: PluginSelection) -> AppContext:
        """Return the context of a run that says itself which plugins may be loaded.

        Raises:
            UsageError: `--no-plugins` is given all the same.
        """
        if self.no_plugins is not None:
            raise UsageError("which plugins are loaded is in run.lock; leave out --no-plugins.")
        return attrs.evolve(self, chosen=selection)

    @functools.cached_property
    def log(self) -> Any:
        """The structlog logger; configures logging on first use."""
        logs.configure(self.verbosity)
        return logs.get_logger()

    @functools.cached_property
    def plugins(self) -> Plugins:
        """The loaded plugins, broken ones included."""
        return load_plugins(self.selection, trace=Trace(_write if self.trace_plugins else None))

    @functools.cached_property
    def silent_registry(self) -> Registry:
        """The registry without warnings, for commands that show broken plugins themselves."""
        return Registry(self.plugins)

    @property
    def registry(self) -> Registry:
        """The registry; warns once about each plugin or component that is out of use."""
        registry = self.silent_registry
        self.plugins.emit_warnings(lambda line: self.log.warning(line), registry.shadows())
        return registry


def _write(event: TraceEvent) -> None:
    click.echo(str(event), err=True)


pass_app = click.make_pass_decorator(AppContext, ensure=True)
"""Decorator: the command receives the `AppContext` as its first argument."""

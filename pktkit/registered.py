"""One registered component: where it comes from, and what it may be once it is loaded."""

from __future__ import annotations

import sys
from typing import Any

import attrs

from pktkit.components import METHODS, Component, Kind
from pktkit.errors import PktkitError, PluginError
from pktkit.hookspecs import PROJECT
from pktkit.isolation import FAULTS, describe, reworded, stdout_to_stderr
from pktkit.tracing import Trace


@attrs.frozen
class Registered:
    """A component and where it comes from.

    Arguments:
        kind: what it is.
        component: name, path and summary.
        plugin: name of the plugin that registered it.
        distribution, version: the installed package of that plugin.
    """

    kind: Kind
    component: Component
    plugin: str
    distribution: str = ""
    version: str = ""

    @property
    def qualified(self) -> str:
        """`plugin:path`, unique among all registered components."""
        return f"{self.plugin}:{self.component.path}"

    @property
    def built_in(self) -> bool:
        """Whether pktkit's own distribution provides it."""
        return self.distribution == PROJECT

    @property
    def origin(self) -> str:
        """The plugin with its distribution and version, for messages."""
        origin = f"plugin {self.plugin}"
        if self.distribution:
            origin += f" of {self.distribution} {self.version}".rstrip()
        return origin

    @property
    def provenance(self) -> str:
        """Distribution and version; the plugin's name where it belongs to none."""
        return f"{self.distribution} {self.version}".strip() or f"plugin {self.plugin}"

    @property
    def label(self) -> str:
        """The component with its plugin and distribution, for messages."""
        return f"{self.kind} '{self.component.name}' ({self.origin})"

    def load(self, trace: Trace | None = None) -> Any:
        """Import the object behind the component.

        Arguments:
            trace: told about the import, if it is the first.

        Raises:
            PluginError: it cannot be imported; the message names plugin and distribution.
        """
        known = self.component.path.partition(":")[0] in sys.modules
        trace = Trace() if known or trace is None else trace
        try:
            with stdout_to_stderr(), trace.event("import", self.label) as traced:
                traced.text = self.component.path
                return self.component.load()
        except PluginError as error:
            raise PluginError(f"{self.label}: {error}") from error

    def options_of(self, cls: Any) -> type:
        """Return the `Options` of the component's class.

        Raises:
            PluginError: it has none.
        """
        options = getattr(cls, "Options", None)
        if not isinstance(options, type):
            raise PluginError(
                f"{self.label}: {self.component.path} has no class attribute 'Options'."
            )
        return options

    def require_method(self, value: Any) -> None:
        """Refuse the component's class, or an instance of it, without the method of its kind.

        Raises:
            PluginError: it has none.
        """
        method = METHODS[self.kind]
        if not callable(getattr(value, method, None)):
            raise PluginError(f"{self.label} has no method '{method}'.")

    def called(self, function: Any, *arguments: Any) -> Any:
        """Call the component's class or function; whatever it raises names the component.

        Raises:
            PktkitError: what was raised.
            PluginError: it cannot be called, or raised something else.
        """
        if not callable(function):
            raise PluginError(f"{self.label}: {self.component.path} cannot be called.")
        try:
            with stdout_to_stderr():
                return function(*arguments)
        except PktkitError as error:
            raise reworded(error, f"{self.label}: {error}") from error
        except FAULTS as error:
            raise PluginError(f"{self.label} cannot be built: {describe(error)}") from error

    def checked(self, value: Any, expected: type) -> Any:
        """Return a strategy or task, if it is one and carries the name it is registered under.

        Raises:
            PluginError: it is something else, or has another name.
        """
        if not isinstance(value, expected):
            raise PluginError(
                f"{self.label}: {self.component.path} is a {type(value).__name__}, "
                f"expected a {expected.__name__}."
            )
        name = getattr(value, "name", None)
        if name != self.component.name:
            raise PluginError(f"{self.label} calls itself '{name}'; both names must agree.")
        return value

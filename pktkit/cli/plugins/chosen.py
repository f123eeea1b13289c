"""What a NAME on the command line stands for: components, a plugin, or a distribution."""

from __future__ import annotations

import click

from pktkit.components import Kind
from pktkit.discovery.plugins import PluginStatus
from pktkit.errors import UsageError, unknown_name
from pktkit.registered import Registered
from pktkit.registry import Registry

kind_option = click.option(
    "--kind", type=click.Choice([kind.value for kind in Kind]), help="Only components of this kind."
)


def components_named(registry: Registry, name: str, kind: str | None) -> list[Registered]:
    """Return every registration of a name, those that are out of use included."""
    kinds = None if kind is None else Kind(kind)
    return [entry for entry in registry.entries(kinds) if entry.component.name == name]


def plugins_named(registry: Registry, name: str) -> list[PluginStatus]:
    """Return the plugins whose entry point, distribution or both have the name."""
    return [
        status
        for status in registry.plugins.loaded
        if name in (status.name, status.distribution, status.qualified)
    ]


def unknown(registry: Registry, name: str, kind: str | None) -> UsageError:
    """Build the error for a name that stands for nothing."""
    if kind is not None:
        return unknown_name(kind, name, registry.names(Kind(kind)))
    statuses = registry.plugins.loaded
    known = {entry.component.name for entry in registry.entries()}
    known |= {status.name for status in statuses} | {status.distribution for status in statuses}
    return unknown_name("component, plugin or distribution", name, known - {""})

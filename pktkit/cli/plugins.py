"""`pktkit plugins`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.tables import table
from pktkit.plugins import OK
from pktkit.registry import Registry

_COLUMNS = ("kind", "name", "plugin", "distribution", "version", "state", "summary")


@click.group()
def plugins() -> None:
    """Show plugins and what they provide."""


@plugins.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def list_plugins(app: AppContext, as_json: bool) -> None:
    """List every component with its plugin, and every plugin that is broken or switched off."""
    registry = app.silent_registry
    if as_json:
        click.echo(json.dumps(_as_data(registry), indent=2, ensure_ascii=False))
        return
    rows = _component_rows(registry) + _plugin_rows(registry)
    click.echo(table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows]))
    for line in [*registry.clashes(), *registry.plugins.notices]:
        click.echo(f"note: {line}")


def _component_rows(registry: Registry) -> list[dict[str, str]]:
    """Return one row per component; a name with several owners is marked."""
    return [
        {
            "kind": entry.kind.value,
            "name": entry.component.name,
            "plugin": entry.plugin,
            "distribution": entry.distribution,
            "version": entry.version,
            "state": registry.state(entry),
            "summary": entry.component.summary,
        }
        for entry in registry.entries()
    ]


def _plugin_rows(registry: Registry) -> list[dict[str, str]]:
    """Return one row per plugin that provides no component, whatever the reason."""
    providers = {entry.plugin for entry in registry.entries()}
    return [
        {
            "kind": "-",
            "name": "-",
            "plugin": status.name,
            "distribution": status.distribution,
            "version": status.version,
            "state": status.state,
            "summary": status.error or ("registers nothing" if status.state == OK else ""),
        }
        for status in registry.plugins.loaded
        if status.state != OK or status.name not in providers
    ]


def _as_data(registry: Registry) -> dict[str, Any]:
    """Return plugins and components as JSON-serialisable data."""
    paths = [entry.component.path for entry in registry.entries()]
    rows = _component_rows(registry)
    return {
        "plugins": [attrs.asdict(status) for status in registry.plugins.loaded],
        "components": [{**row, "path": path} for row, path in zip(rows, paths, strict=True)],
        "clashes": registry.clashes(),
        "notices": list(registry.plugins.notices),
    }

"""`pktkit plugins list`."""

from __future__ import annotations

import json
from typing import Any

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.discovery.plugins import OK, PluginStatus
from pktkit.registered import Registered
from pktkit.registry import Registry
from pktkit.tables import table

_COLUMNS = (
    "kind",
    "name",
    "plugin",
    "distribution",
    "version",
    "api",
    "state",
    "import s",
    "summary",
)
_SECONDS = _COLUMNS.index("import s")


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def list_plugins(app: AppContext, as_json: bool) -> None:
    """List every component with its plugin, and every plugin that is out of use.

    States: ok; broken, with the reason; blocked by --no-plugins or PKTKIT_PLUGINS; shadowed by a
    built-in one of its name; clash, where several plugins claim a component's name.
    """
    registry = app.silent_registry
    if as_json:
        click.echo(json.dumps(_as_data(registry), indent=2, ensure_ascii=False))
        return
    rows = [_component_row(registry, entry) for entry in registry.entries()]
    rows += _plugin_rows(registry)
    cells = [[_cell(row[column]) for column in _COLUMNS] for row in rows]
    click.echo(table(_COLUMNS, cells, right=(_SECONDS,)))
    for line in [*registry.clashes(), *registry.shadows(), *registry.plugins.notices]:
        click.echo(f"note: {line}")


def _component_row(registry: Registry, entry: Registered) -> dict[str, Any]:
    """Return one row per component, with the facts of its plugin."""
    status = registry.plugins.status(entry.plugin)
    return {
        "kind": entry.kind.value,
        "name": entry.component.name,
        **_plugin_facts(status),
        "state": registry.state(entry),
        "summary": entry.component.summary,
    }


def _plugin_rows(registry: Registry) -> list[dict[str, Any]]:
    """Return one row per plugin that provides no component, whatever the reason."""
    providers = {(entry.plugin, entry.distribution) for entry in registry.entries()}
    return [
        {
            "kind": "-",
            "name": "-",
            **_plugin_facts(status),
            "state": status.state,
            "summary": status.error or ("registers nothing" if status.state == OK else ""),
        }
        for status in registry.plugins.loaded
        if status.state != OK or (status.name, status.distribution) not in providers
    ]


def _plugin_facts(status: PluginStatus) -> dict[str, Any]:
    return {
        "plugin": status.name,
        "distribution": status.distribution,
        "version": status.version,
        "api": status.api,
        "import s": status.import_seconds,
    }


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "-" if value is None else str(value)


def _as_data(registry: Registry) -> dict[str, Any]:
    """Return plugins and components as JSON-serialisable data."""
    components = []
    for entry in registry.entries():
        row = _component_row(registry, entry)
        seconds = row.pop("import s")
        reference = entry.component.reference
        components.append(
            {**row, "import_seconds": seconds, "path": entry.component.path, "paper": reference}
        )
    return {
        "plugins": [attrs.asdict(status) for status in registry.plugins.loaded],
        "components": components,
        "clashes": registry.clashes(),
        "shadows": registry.shadows(),
        "notices": list(registry.plugins.notices),
    }

"""`pktkit plugins info NAME`: everything that is known of a component or a plugin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.plugins.chosen import components_named, kind_option, plugins_named, unknown
from pktkit.components import Choice, Kind, Strategy
from pktkit.discovery.plugins import PluginStatus
from pktkit.errors import PktkitError
from pktkit.registered import Registered
from pktkit.registry import Registry
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.tasks.base import Task


@click.command()
@click.argument("name")
@kind_option
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def info(app: AppContext, name: str, kind: str | None, as_json: bool) -> None:
    """Show what NAME is: a component, a plugin or a distribution.

    Of a component: its options with defaults, what it promises (capabilities), the paper, and the
    strategies that use it.
    """
    registry = app.silent_registry
    components = components_named(registry, name, kind)
    plugins = [] if kind is not None else plugins_named(registry, name)
    if not components and not plugins:
        raise unknown(registry, name, kind)
    data = {
        "components": [_component(registry, entry) for entry in components],
        "plugins": [_plugin(registry, status) for status in plugins],
    }
    if as_json:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
        return
    sheets = [_sheet(each) for each in (*data["components"], *data["plugins"])]
    click.echo("\n\n".join(sheets))


def _component(registry: Registry, entry: Registered) -> dict[str, Any]:
    """Return the facts of a component; what cannot be loaded has an `error`."""
    status = registry.plugins.status(entry.plugin)
    facts: dict[str, Any] = {
        "what": f"{entry.kind} {entry.component.name}",
        "summary": entry.component.summary,
        "state": registry.state(entry),
        "plugin": entry.plugin,
        "distribution": f"{entry.distribution} {entry.version}".strip(),
        "api": status.api,
        "import_seconds": round(status.import_seconds, 4),
        "path": entry.component.path,
        "paper": entry.component.reference,
    }
    try:
        facts |= _details(registry, entry)
    except PktkitError as error:
        facts["error"] = str(error)
    return facts


def _details(registry: Registry, entry: Registered) -> dict[str, Any]:
    if entry.kind is Kind.STRATEGY:
        return _strategy(registry.value(entry))
    cls = registry.value(entry)
    if entry.kind is Kind.TASK:
        return {"options": _options(cls)} if isinstance(cls, type) else _task(cls)
    from pktkit.capabilities import capabilities_of

    promised = capabilities_of(cls)
    return {
        "capabilities": {
            field.name: getattr(promised, field.name)
            for field in attrs.fields(type(promised))
            if promised.declares(field.name)
        },
        "used_by": _users(registry, entry),
        "options": _options(cls),
    }


def _options(cls: Any) -> list[dict[str, Any]]:
    """Return what a component's class lets the user set."""
    from pktkit.options import describe_options

    return [
        {
            "option": field.name,
            "type": field.type,
            "default": "(required)" if field.required else field.default,
            "choices": list(field.choices),
            "doc": field.doc,
        }
        for field in describe_options(cls.Options)
    ]


def _strategy(strategy: Strategy) -> dict[str, Any]:
    stages = {
        stage: _choice(choice)
        for stage in ("matcher", "aligner", "injector")
        if (choice := getattr(strategy, stage)) is not None
    }
    return {
        "paper": strategy.reference,
        "role": strategy.role,
        "isolates": strategy.isolates,
        **stages,
        "budget": dict(strategy.budget),
    }


def _task(task: Task) -> dict[str, Any]:
    return {
        "evaluator": _choice(task.evaluator),
        "metric": task.card.metric,
        "splitting": task.card.splitting,
        "items": {split: len(items) for split, items in task.splits.items()},
    }


def _choice(choice: Choice) -> str:
    options = ", ".join(f"{name}={value}" for name, value in choice.options.items())
    return f"{choice.name} ({options})" if options else choice.name


def _users(registry: Registry, entry: Registered) -> list[str]:
    """Return the strategies that choose a component by name; broken ones are left out."""
    users = []
    for name in registry.names(Kind.STRATEGY):
        try:
            choice = getattr(registry.strategy(name), entry.kind.value, None)
        except PktkitError:
            continue
        if choice is not None and choice.name == entry.component.name:
            users.append(name)
    return users


def _plugin(registry: Registry, status: PluginStatus) -> dict[str, Any]:
    return {
        "what": f"plugin {status.name}",
        "state": status.state,
        "error": status.error,
        "distribution": f"{status.distribution} {status.version}".strip(),
        "api": status.api,
        "import_seconds": round(status.import_seconds, 4),
        "path": status.value,
        "components": [
            f"{entry.kind} {entry.component.name}"
            for entry in registry.entries()
            if (entry.plugin, entry.distribution) == (status.name, status.distribution)
        ],
    }


def _sheet(facts: Mapping[str, Any]) -> str:
    """Return facts one below the other, and the options as a table."""
    lines = [str(facts["what"])]
    for key, value in facts.items():
        if key in ("what", "options") or value in ("", None, [], {}):
            continue
        lines.append(f"  {key.replace('_', ' '):<15} {_shown(value)}")
    options = facts.get("options")
    if options:
        rows = [[_shown(each[column]) for column in options[0]] for each in options]
        text = table(tuple(options[0]), rows)
        lines += ["", *(f"  {line}" for line in text.splitlines())]
    elif options is not None:
        lines.append("  options         none")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(key if each is True else f"{key}={each}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)

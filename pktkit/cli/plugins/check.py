"""`pktkit plugins check NAME`: the contract kit, without a source checkout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.plugins.chosen import components_named, kind_option, plugins_named, unknown
from pktkit.components import Kind
from pktkit.discovery.plugins import OK
from pktkit.errors import UsageError
from pktkit.registered import Registered
from pktkit.registry import Registry
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.testing import CheckResult

FAILED = 1
"""Exit code where a law does not hold."""


@click.command()
@click.argument("name")
@kind_option
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="OPTION=VALUE",
    help="Check with this option. Repeatable.",
)
@click.option("--thorough", is_flag=True, help="More pairs and examples: minutes, not seconds.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def check(
    app: AppContext,
    name: str,
    kind: str | None,
    settings: tuple[str, ...],
    thorough: bool,
    as_json: bool,
) -> int:
    """Test NAME against the laws of its kind; ends with 1 where one does not hold.

    NAME is a component, or a plugin or distribution whose components are all tested. Everything
    runs on tiny random models in this process.
    """
    registry = app.silent_registry
    entries = _entries(registry, name, kind)
    options = _options(settings)
    if options and len(entries) > 1:
        raise UsageError("--set needs one component; name it, and its --kind where there are two.")
    results = [(entry, _checked(entry, registry, options, thorough)) for entry in entries]
    if as_json:
        rows = [
            {**_row(entry, each), **each.to_row()} for entry, found in results for each in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join(_table(entry, found) for entry, found in results))
    return 0 if all(each.ok for _, found in results for each in found) else FAILED


def _entries(registry: Registry, name: str, kind: str | None) -> list[Registered]:
    """Return the components that a name stands for and that have laws.

    Raises:
        UsageError: there is none; broken plugins say why.
    """
    from pktkit.testing import LAWS

    named = components_named(registry, name, kind)
    statuses = plugins_named(registry, name)
    if not named and kind is None:
        owners = {(status.name, status.distribution) for status in statuses}
        named = [e for e in registry.entries() if (e.plugin, e.distribution) in owners]
    if not named:
        for status in statuses:
            if status.state != OK:
                raise UsageError(f"{status.label} is {status.state}: {status.error}")
        raise unknown(registry, name, kind)
    lawful = {each for law in LAWS.values() for each in law.kinds}
    entries = [entry for entry in named if entry.kind in lawful]
    if not entries:
        kinds = ", ".join(each.value for each in Kind if each in lawful)
        raise UsageError(f"'{name}' is of a kind without laws. Kinds that have laws: {kinds}.")
    return entries


def _options(settings: tuple[str, ...]) -> dict[str, Any]:
    from pktkit.recipe import parse_value

    options = {}
    for text in settings:
        option, sign, value = text.partition("=")
        if not sign or not option.isidentifier():
            raise UsageError(f"--set '{text}' must be OPTION=VALUE, e.g. scale=fitted.")
        options[option] = parse_value(value)
    return options


def _checked(
    entry: Registered, registry: Registry, options: dict[str, Any], thorough: bool
) -> tuple[CheckResult, ...]:
    from pktkit.isolation import stdout_to_stderr
    from pktkit.testing import checks_for, run_checks

    with stdout_to_stderr():
        checks = checks_for(
            entry.kind,
            registry.value(entry),
            options=options,
            registry=registry,
            thorough=thorough,
        )
        return run_checks(checks)


def _row(entry: Registered, result: CheckResult) -> dict[str, Any]:
    from pktkit.testing import LAWS

    return {
        "component": entry.component.name,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "sentence": LAWS[result.law].sentence,
    }


def _table(entry: Registered, results: tuple[CheckResult, ...]) -> str:
    """Return one line per law, and below the reason of each that does not hold."""
    from pktkit.testing import LAWS

    rows = [
        [each.law, each.outcome.value, f"{each.seconds:.2f}", LAWS[each.law].sentence]
        for each in results
    ]
    lines = [entry.label, table(("law", "result", "s", "sentence"), rows, right=(2,))]
    lines += [f"{each.law}: {' '.join(each.reason.split())}" for each in results if not each.ok]
    failed = sum(not each.ok for each in results)
    held = sum(each.outcome.value == "passed" for each in results)
    lines.append(f"{held} of {len(results)} laws hold, {failed} do not, the rest do not bind it")
    return "\n".join(lines)

"""`pktkit plugins doctor`."""

from __future__ import annotations

import json

import attrs
import click

from pktkit.cli.context import AppContext, pass_app
from pktkit.tables import table

FOUND = 1
"""Exit code where something cannot be used."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@pass_app
def doctor(app: AppContext, as_json: bool) -> int:
    """Look for what is wrong with the installed plugins; ends with 1 where something is broken.

    Broken plugins and components, misspelt hooks, heavy or slow imports, names claimed twice,
    plugins that do not say which plugin API they were written for.
    """
    from pktkit.discovery.doctor import Severity, examine

    registry = app.silent_registry
    findings = examine(registry)
    counts = {
        each.value: sum(finding.severity is each for finding in findings) for each in Severity
    }
    if as_json:
        data = {
            "plugins": len(registry.plugins.loaded),
            "counts": counts,
            "findings": [attrs.asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        if findings:
            columns = ("severity", "check", "plugin", "distribution", "version", "message")
            rows = [[getattr(finding, column) for column in columns] for finding in findings]
            click.echo(table(columns, rows))
        listed = ", ".join(f"{count} {name}s" for name, count in counts.items())
        click.echo(f"{len(registry.plugins.loaded)} plugins: {listed}")
    return FOUND if counts[Severity.ERROR] else 0

"""`pktkit plugins new NAME`."""

from __future__ import annotations

from pathlib import Path

import click

from pktkit.cli.context import AppContext, pass_app


@click.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="New or empty directory. Default: pktkit-NAME here.",
)
@pass_app
def new(app: AppContext, name: str, out: Path | None) -> None:
    """Write a complete plugin distribution called pktkit-NAME.

    An aligner and a strategy that work, their contract tests, README, pyproject and a CI file.
    """
    from pktkit.discovery.scaffold import PREFIX, render, write

    files = render(name, app.silent_registry)
    directory = out or Path(f"{PREFIX}{name}")
    write(files, directory)
    for path in files:
        click.echo(f"wrote    {directory / path}")
    click.echo(f"next     pip install -e '{directory}[test]' && pytest {directory}")

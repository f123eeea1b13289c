"""`pktkit plugins`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

import click

from pktkit.cli.plugins.check import check
from pktkit.cli.plugins.doctor import doctor
from pktkit.cli.plugins.info import info
from pktkit.cli.plugins.listing import list_plugins
from pktkit.cli.plugins.new import new


@click.group()
def plugins() -> None:
    """Show, check and begin plugins."""


for _command in (list_plugins, info, check, doctor, new):
    plugins.add_command(_command)

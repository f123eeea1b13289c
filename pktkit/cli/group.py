"""The click group behind `pktkit`: lazy sub-commands, and one place where errors end."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import attrs
import click

from pktkit.errors import PktkitError, did_you_mean
from pktkit.memory import does_not_fit, is_out_of_memory

# Python looks through all objects for garbage once more before a process ends: a second for those
# of torch and transformers. The system takes the memory back anyway.
atexit.register(gc.freeze)

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
TRACEBACK_VARIABLE = "PKTKIT_TRACEBACK"


@attrs.frozen
class LazyCommand:
    """A sub-command that `--help` lists without importing it.

    Arguments:
        name: what users type.
        path: `"package.module:attribute"` of the click command.
        help: one line.
    """

    name: str
    path: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.path.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class PktkitGroup(click.Group):
    """A group that imports a command when it is invoked and turns errors into exit codes."""

    def __init__(
        self, *args: Any, commands_by_path: Sequence[LazyCommand] = (), **settings: Any
    ) -> None:
        """Take the lazy commands beside what `click.Group` takes."""
        super().__init__(*args, **settings)
        self._lazy = {command.name: command for command in commands_by_path}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order given."""
        return [*self._lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by name."""
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one gets a suggestion."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            guess = did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"No such command '{args[0]}'.{guess}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from their static help lines."""
        with formatter.section("Commands"):
            formatter.write_dl([(lazy.name, lazy.help) for lazy in self._lazy.values()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let `--no-plugins` stand alone; click would take the sub-command for its value."""
        for index, argument in enumerate(args):
            if not argument.startswith("-"):
                break
            if argument == "--no-plugins":
                args[index] = "--no-plugins=*"
        return super().parse_args(ctx, args)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and end the process with a documented exit code."""
        if not standalone_mode:
            return super().main(args, prog_name, standalone_mode=False, **extra)
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
        except Exception as error:
            _end(error)
        sys.exit(result if isinstance(result, int) else 0)


def _end(error: Exception) -> NoReturn:
    """Report an error on stderr and end the process."""
    if os.environ.get(TRACEBACK_VARIABLE) == "1" and not isinstance(
        error, (click.ClickException, click.Abort)
    ):
        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        error.show()
        sys.exit(error.exit_code)
    if isinstance(error, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    if isinstance(error, PktkitError):
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if is_out_of_memory(error):
        lack = does_not_fit(error)
        click.echo(f"error: {lack}", err=True)
        sys.exit(lack.exit_code)
    text = " ".join(f"{type(error).__name__}: {error}".split())
    click.echo(
        f"internal error: {text}; set {TRACEBACK_VARIABLE}=1 to see where, and please report it",
        err=True,
    )
    sys.exit(EXIT_INTERNAL)

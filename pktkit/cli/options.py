"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from pktkit.cli.context import AppContext
from pktkit.errors import UsageError
from pktkit.settings import STATE_DTYPES

DTYPES = ("float32", "bfloat16", "float16", "auto")


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the models and their probe, and `--trace-plugins`."""
    decorators = (
        click.option("--source", help="Source model: directory or hub id. Default: embedded."),
        click.option("--target", help="Target model: directory or hub id. Default: embedded."),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="float32",
            show_default=True,
            help="Precision of both models.",
        ),
        click.option("--device", default="cpu", show_default=True, help="Torch device."),
        click.option(
            "--max-length",
            type=click.IntRange(min=2),
            default=512,
            show_default=True,
            help="Longest sequence in tokens.",
        ),
        click.option(
            "--cache",
            type=click.Path(file_okay=False, path_type=Path),
            help="Keep readings of the models here between runs. Default: for this run only.",
        ),
        click.option(
            "--state-dtype",
            type=click.Choice(STATE_DTYPES),
            default="model",
            show_default=True,
            help="Precision that states are kept in.",
        ),
        click.option(
            "--trace-plugins",
            is_flag=True,
            expose_value=False,
            callback=_trace,
            help="Show on stderr which component did what, in which order, with times and shapes.",
        ),
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _trace(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Switch tracing on as the option in front of the command does."""
    app = context.ensure_object(AppContext)
    app.trace_plugins = app.trace_plugins or value


def chosen_pair(source: str | None, target: str | None) -> tuple[str, str, bool]:
    """Return both models, and whether they are the embedded pair.

    Raises:
        UsageError: only one of the two is given.
    """
    if (source is None) != (target is None):
        missing = "--source" if source is None else "--target"
        raise UsageError(
            f"{missing} is missing: give both models, or neither for the embedded pair."
        )
    if source is None or target is None:
        from pktkit.zoo import pair_paths

        embedded_source, embedded_target = pair_paths()
        return str(embedded_source), str(embedded_target), True
    return source, target, False


def names(text: str) -> list[str]:
    """Split a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]

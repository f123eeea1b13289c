"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit.cli.context import AppContext
from pktkit.errors import UsageError
from pktkit.settings import STATE_DTYPES, ProbeSettings

if TYPE_CHECKING:
    from pktkit.compare.plan import PairSpec
    from pktkit.probe import Probe
    from pktkit.tasks.base import Task

DTYPES = ("float32", "bfloat16", "float16", "auto")
DEFAULT_TASK = "compose"
"""What the embedded pair was built to show."""

Command = Callable[..., Any]


def gathered(argument: str, values: type) -> Callable[[Command], Command]:
    """Hand a command several options as one argument.

    Arguments:
        argument: its name.
        values: a frozen attrs class whose fields are called as the options' parameters.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathering(*args: Any, **given: Any) -> Any:
            fields = {field.name: given.pop(field.name) for field in attrs.fields(values)}
            return command(*args, **given, **{argument: values(**fields)})

        return gathering

    return decorate


@attrs.frozen
class ModelChoice:
    """What the options that every command on a pair has were given.

    Arguments:
        source, target: directory or hub id; both None for the embedded pair.
        dtype: precision of both models.
        device: torch device of both.
        max_length: longest sequence in tokens.
        cache: directory of readings that outlives the run; None keeps them for this run only.
        state_dtype: precision that states are kept in.

    Raises:
        UsageError: only one of the two models is given.
    """

    source: str | None
    target: str | None
    dtype: str
    device: str
    max_length: int
    cache: Path | None
    state_dtype: str

    def __attrs_post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            missing = "--source" if self.source is None else "--target"
            raise UsageError(
                f"{missing} is missing: give both models, or neither for the embedded pair."
            )

    @property
    def pair(self) -> PairSpec:
        """Which models, where and how precise."""
        from pktkit.compare.plan import PairSpec
        from pktkit.zoo import pair_paths

        source, target = self.source, self.target
        if source is None or target is None:
            source, target = map(str, pair_paths())
        return PairSpec(source, target, self.dtype, self.device)

    @property
    def settings(self) -> ProbeSettings:
        """How readings are taken."""
        return ProbeSettings(max_length=self.max_length, state_dtype=self.state_dtype)

    def task_name(self, given: str | None) -> str:
        """Return the task asked for; the embedded pair has a default.

        Raises:
            UsageError: no task is given for other models.
        """
        if given is None and self.source is not None:
            raise UsageError("--task is needed with --source and --target, e.g. --task rows.jsonl.")
        return given or DEFAULT_TASK

    def probe(self, task: Task) -> Probe:
        """Load the pair and open a probe on it.

        Raises:
            PktkitError: a model cannot be loaded.
        """
        from pktkit.probe import Probe, ReadingCache

        return Probe(self.pair.load(), task, settings=self.settings, cache=ReadingCache(self.cache))


def model_options(command: Command) -> Command:
    """Add `--trace-plugins`, and the options of `ModelChoice` as the argument `models`."""
    command = gathered("models", ModelChoice)(command)
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


def names(text: str) -> list[str]:
    """Split a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]

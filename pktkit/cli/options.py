"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit.cli.context import AppContext
from pktkit.cli.units import SIZE, shown_size
from pktkit.errors import UsageError
from pktkit.settings import CACHE_BYTES, STATE_DTYPES, ProbeSettings

if TYPE_CHECKING:
    from pktkit.compare.plan import PairSpec
    from pktkit.probe import Probe
    from pktkit.tasks.base import Task

DTYPES = ("float32", "bfloat16", "float16", "auto")
CACHE_VARIABLE = "PKTKIT_CACHE"
LIMIT_VARIABLE = "PKTKIT_CACHE_LIMIT"
QUANTS = ("none", "8bit", "4bit")
TEMPLATES = ("task", "auto", "chat", "tulu", "plain")
AUTO = "auto"
SPREAD = "spread"
DEFAULT_TASK = "compose"
"""What the embedded pair was built to show."""

Command = Callable[..., Any]

LIMIT = click.option(
    "--cache-limit",
    envvar=LIMIT_VARIABLE,
    type=SIZE,
    default=shown_size(CACHE_BYTES),
    show_default=True,
    help="Most space for readings on disk, e.g. 500MB or none; the longest unused leave first.",
)
"""Bounds `--cache`."""


CODE_EXECUTION = click.option(
    "--allow-code-execution",
    is_flag=True,
    help="Permit running programs that a model wrote, in a sandbox (tasks such as code).",
)

TRUST_REMOTE_CODE = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run code that comes with a checkpoint. Only for checkpoints you trust.",
)


def form_option(*forms: str) -> Callable[[Command], Command]:
    """Let a command's result be written in one of several forms; `table` unless asked."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", *forms]),
        default="table",
        show_default=True,
        help="How the result is written to stdout.",
    )


def gathered(argument: str, values: type) -> Callable[[Command], Command]:
    """Hand a command several options as one argument.

    Arguments:
        argument: its name.
        values: a frozen attrs class whose fields are called as the options' parameters; those
            that the command does not have keep their defaults.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def gathering(*args: Any, **given: Any) -> Any:
            fields = {f.name: given.pop(f.name) for f in attrs.fields(values) if f.name in given}
            return command(*args, **given, **{argument: values(**fields)})

        return gathering

    return decorate


@attrs.frozen
class Placement:
    """Where models are put, and how precise.

    Arguments:
        dtype: precision of both models.
        device: torch device of both, or `"auto"`.
        source_dtype, source_device, target_device: instead, for one of them.
        source_quant: how a source that is only read is packed.
        trust_remote_code: whether modules that lie beside the weights are run.
    """

    dtype: str
    device: str
    source_dtype: str | None
    source_device: str | None
    target_device: str | None
    source_quant: str
    trust_remote_code: bool

    def pair(self, source: str | None, target: str | None) -> PairSpec:
        """Return how a pair is loaded; None for both is the embedded one.

        That one stays on the CPU unless a device is named: it is small, and several worker
        processes are quicker there than one on a GPU.
        """
        from pktkit.compare.plan import PairSpec
        from pktkit.zoo import pair_paths

        if SPREAD in (self.device, self.target_device):
            raise UsageError(
                "only the source can be spread, since the target is changed: --source-device "
                "spread, with --target-device or --device for the target."
            )
        embedded = source is None or target is None
        first, second = map(str, pair_paths()) if embedded else (str(source), str(target))
        chosen = self.device
        if chosen == AUTO and embedded:
            chosen = "cpu"
        return PairSpec(
            first,
            second,
            dtype=self.dtype,
            device=_resolved(chosen),
            source_dtype=self.source_dtype or "",
            source_device=_resolved(self.source_device or ""),
            target_device=_resolved(self.target_device or ""),
            source_quant=self.source_quant,
            trust_remote_code=self.trust_remote_code,
        )


def placement_options(command: Command) -> Command:
    """Add the options of `Placement` as the argument `placement`."""
    command = gathered("placement", Placement)(command)
    decorators = (
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="float32",
            show_default=True,
            help="Precision of both models; 'auto' is the checkpoint's own.",
        ),
        click.option(
            "--device",
            default=AUTO,
            show_default=True,
            help="Where both models go: cpu, cuda, cuda:1, mps; 'auto' takes a GPU if there is "
            "one (not for the embedded pair).",
        ),
        click.option("--source-dtype", type=click.Choice(DTYPES), help="Precision of the source."),
        click.option(
            "--source-device",
            help="Device of the source; 'spread' takes all of them, and host memory.",
        ),
        click.option("--target-device", help="Device of the target."),
        click.option(
            "--source-quant",
            type=click.Choice(QUANTS),
            default="none",
            show_default=True,
            help="Pack the source's weights (bitsandbytes); for strategies that only read states.",
        ),
        TRUST_REMOTE_CODE,
    )
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _resolved(device: str) -> str:
    """Name the device that `auto` stands for, once and for all worker processes."""
    if device != AUTO:
        return device
    from pktkit.checkpoints import resolve_device

    return resolve_device(device)


@attrs.frozen
class ModelChoice:
    """What the options that every command on a pair has were given.

    Arguments:
        source, target: see `pktkit.checkpoints.reference`; both None for the embedded pair. The
            source may be a directory that `pktkit states write` made.
        placement: devices and precision.
        template: how prompts and answers are joined; `"task"` leaves it to the task.
        max_length: longest sequence in tokens.
        state_dtype: precision that states are kept in.
        cache: directory of readings that outlives the run; None keeps them for this run only.
        cache_limit: bytes that readings on disk may take; None for no limit.

    Raises:
        UsageError: only one of the two models is given.
    """

    source: str | None
    target: str | None
    placement: Placement
    template: str
    max_length: int
    state_dtype: str
    cache: Path | None = None
    cache_limit: int | None = CACHE_BYTES

    def __attrs_post_init__(self) -> None:
        if (self.source is None) != (self.target is None):
            missing = "--source" if self.source is None else "--target"
            raise UsageError(
                f"{missing} is missing: give both models, or neither for the embedded pair."
            )

    @property
    def pair(self) -> PairSpec:
        """Which models, where and how precise."""
        return self.placement.pair(self.source, self.target)

    @property
    def settings(self) -> ProbeSettings:
        """How readings are taken."""
        return ProbeSettings(
            max_length=self.max_length,
            state_dtype=self.state_dtype,
            cache_bytes=self.cache_limit,
        )

    def task_name(self, given: str | None) -> str:
        """Return the task asked for; the embedded pair has a default.

        Raises:
            UsageError: no task is given for other models.
        """
        if given is None and self.source is not None:
            raise UsageError("--task is needed with --source and --target, e.g. --task rows.jsonl.")
        return given or DEFAULT_TASK

    @property
    def own_template(self) -> str:
        """The template asked for instead of the tasks' own; empty for theirs."""
        return "" if self.template == "task" else self.template

    def probe(self, task: Task) -> Probe:
        """Load the pair and open a probe on it, with the template asked for.

        Raises:
            PktkitError: a model cannot be loaded.
        """
        from pktkit.compare.plan import templated
        from pktkit.probe import Probe, ReadingCache

        task = templated(task, self.own_template)
        cache = ReadingCache(self.cache, self.cache_limit)
        return Probe(self.pair.load(), task, settings=self.settings, cache=cache)


def model_options(command: Command) -> Command:
    """Add `--trace-plugins`, and all options of `ModelChoice` as the argument `models`."""
    return pair_options(_decorated(command, (cache_option("Default: for this run only."), LIMIT)))


def cache_option(absent: str) -> Command:
    """Return the option `--cache`.

    Arguments:
        absent: says in the help what happens without it.
    """
    return click.option(
        "--cache",
        envvar=CACHE_VARIABLE,
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Keep readings of the models here between runs. {absent}",
    )


def pair_options(command: Command) -> Command:
    """Add `--trace-plugins`, and options of `ModelChoice` but the cache's, as `models`."""
    command = placement_options(gathered("models", ModelChoice)(command))
    decorators = (
        click.option(
            "--source",
            help="Source model: directory, file.gguf, hub id ORG/NAME[@REVISION], BASE+ADAPTER, or "
            "what 'states write' made. Default: embedded.",
        ),
        click.option("--target", help="Target model, named alike. Default: embedded."),
        click.option(
            "--template",
            type=click.Choice(TEMPLATES),
            default="task",
            show_default=True,
            help="How prompt and answer are joined; 'auto' takes a model's chat template if it has "
            "one.",
        ),
        click.option(
            "--max-length",
            type=click.IntRange(min=2),
            default=512,
            show_default=True,
            help="Longest row in tokens: answers are cut there, longer prompts dropped.",
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
    return _decorated(command, decorators)


def _decorated(command: Command, decorators: Sequence[Command]) -> Command:
    """Add options in the order in which `--help` shows them."""
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

"""`pktkit analyze`: figures of a pair, with the numbers behind them."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit import logs
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import DEFAULT_TASK, ModelChoice, model_options
from pktkit.cli.tables import table
from pktkit.components import Choice, Kind
from pktkit.errors import UsageError, did_you_mean, unknown_name

if TYPE_CHECKING:
    from pktkit.analysis import AnalysisContext, AnalysisResult, Outcome
    from pktkit.outcomes import ReportSection
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.registry import Registry

ALL = "all"
EVERY = "analysis"
"""What stands before the dot of a `--set` that is meant for every analysis that has the option."""

PAGE = "analysis.html"
SCHEMA_VERSION = 1
_OVERRIDE = re.compile(r"(?P<name>[\w.-]+)\.(?P<option>\w+)=(?P<value>.*)", re.DOTALL)


class _Command(click.Command):
    """A command whose help lists the registered analyses; their modules are not imported."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line per analysis."""
        registry = ctx.ensure_object(AppContext).silent_registry
        entries = [entry.component for entry in registry.entries(Kind.ANALYSIS)]
        with formatter.section("Analyses"):
            formatter.write_dl([(entry.name, entry.summary) for entry in entries] or [("-", "")])


@click.command(cls=_Command)
@click.argument("names", nargs=-1, metavar="[NAME ...|all]")
@click.option(
    "--task", "task_name", help=f"Task or file of rows. Default, embedded: {DEFAULT_TASK}."
)
@model_options
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--split",
    type=click.Choice(["dev", "test"]),
    default="dev",
    show_default=True,
    help="Whose tokens are looked at.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first N items only.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="NAME.OPTION=VALUE",
    help=f"Change an option of an analysis, or with {EVERY}.OPTION of all that have it. "
    "Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="New or empty directory.")
@pass_app
def analyze(
    app: AppContext,
    names: tuple[str, ...],
    task_name: str | None,
    models: ModelChoice,
    seed: int,
    split: str,
    limit: int | None,
    overrides: tuple[str, ...],
    out: Path | None,
) -> int:
    """Draw figures of a pair: PNG, JSON, and one HTML page with all of them.

    Without names, all analyses are run; without models, on the embedded pair. Both models are
    as before afterwards.
    """
    from pktkit.checkpoints import require_writable
    from pktkit.compare.plan import choose_task

    logs.configure(app.verbosity)
    registry = app.registry
    wanted = models.task_name(task_name)
    choices = apply_overrides(choose_analyses(registry, names or (ALL,)), overrides, registry)
    task = choose_task(registry, wanted)
    task = attrs.evolve(task, splits={**task.splits, split: task.items(split)[:limit]})
    directory = out or Path("runs") / f"analysis-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
    require_writable(directory)

    from pktkit.analysis import AnalysisContext

    context = AnalysisContext(models.probe(task), registry, seed, split)
    outcomes = _run(app, choices, context)
    failures = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(failures) < len(outcomes):
        write(directory, outcomes, context)
        if app.verbosity >= 0:
            click.echo(f"wrote    {directory}", err=True)
    for failure in failures[1:]:
        click.echo(f"error: {failure}", err=True)
    if failures:
        raise failures[0]
    return 0


def _run(app: AppContext, choices: Sequence[Choice], context: AnalysisContext) -> list[Outcome]:
    """Run analyses, and show each as soon as it is done."""
    from pktkit.analysis import run_analyses

    outcomes = []
    for outcome in run_analyses(choices, context, lambda choice: _announce(app, choice)):
        _print(outcome)
        outcomes.append(outcome)
    return outcomes


def choose_analyses(registry: Registry, names: Sequence[str]) -> list[Choice]:
    """Return the named analyses; `all` stands for every registered one.

    Raises:
        UsageError: an unknown name, or none at all.
        PluginError: a name that several plugins claim.
    """
    known = registry.names(Kind.ANALYSIS)
    wanted = [each for name in names for each in (known if name == ALL else (name,))]
    if not wanted:
        listed = ", ".join(known) or "none is installed"
        raise UsageError(f"no analysis is named. Known: {listed}.")
    chosen = []
    for name in dict.fromkeys(wanted):
        if name not in known:
            raise unknown_name("analysis", name, [*known, ALL])
        registry.get(Kind.ANALYSIS, name)
        chosen.append(Choice(name))
    return chosen


def apply_overrides(
    choices: Sequence[Choice], overrides: Sequence[str], registry: Registry
) -> list[Choice]:
    """Set options of the chosen analyses, and check the values.

    Raises:
        UsageError: an override is malformed, fits no chosen analysis, or its value is refused.
    """
    from pktkit.options import build_options, describe_options
    from pktkit.recipe import parse_value

    options: dict[str, dict[str, Any]] = {choice.name: dict(choice.options) for choice in choices}
    for text in overrides:
        match = _OVERRIDE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"--set '{text}' must be NAME.option=value or {EVERY}.option=value, "
                "e.g. cka.strategy=seeking."
            )
        name, option = match["name"], match["option"]
        if name != EVERY and name not in options:
            known = [*options, EVERY]
            raise UsageError(
                f"--set '{text}': '{name}' is not among the chosen analyses."
                f"{did_you_mean(name, known)} Known: {', '.join(known)}."
            )
        fields = {
            each: [f.name for f in describe_options(registry.options_class(Kind.ANALYSIS, each))]
            for each in (options if name == EVERY else (name,))
        }
        fitting = [each for each in fields if option in fields[each]]
        if not fitting:
            known = sorted({field for each in fields.values() for field in each})
            raise UsageError(
                f"--set '{text}': no chosen analysis has the option '{option}'."
                f"{did_you_mean(option, known)} Options: {', '.join(known)}."
            )
        for each in fitting:
            options[each][option] = parse_value(match["value"])
    for name, values in options.items():
        build_options(registry.options_class(Kind.ANALYSIS, name), values, f"analysis '{name}'")
    return [Choice(name, values) for name, values in options.items()]


def write(directory: Path, outcomes: Sequence[Outcome], context: AnalysisContext) -> None:
    """Write figures, data and the page; the directory appears complete or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir(parents=True)
        for name, content in _files(outcomes, context).items():
            (partial / name).write_bytes(content)
        os.replace(partial, directory)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"'{directory}' cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _files(outcomes: Sequence[Outcome], context: AnalysisContext) -> dict[str, bytes]:
    from pktkit import __version__
    from pktkit.report.html import facts_html, page, section_html

    pair, task = context.pair, context.probe.task.name
    models = [f"{x.name}: {x.anatomy.n_blocks} blocks × {x.anatomy.width}" for x in _models(pair)]
    seed, split = f"seed {context.seed}", f"split {context.split}"
    files: dict[str, bytes] = {}
    sections = [facts_html([*models, split, seed, f"pktkit {__version__}"])]
    for outcome in outcomes:
        name, result = outcome.choice.name, outcome.result
        if result is None:
            sections.append(section_html(_failed(outcome)))
            continue
        pictures = _pictures(name, result)
        files |= pictures
        document = _document(outcome.choice, result, list(pictures), context)
        files[f"{name}.json"] = f"{document}\n".encode()
        sections.append(section_html(result.section()))
    title = f"Analysis of {pair.source.name} → {pair.target.name} on {task}"
    return files | {PAGE: page(title, sections).encode()}


def _models(pair: ModelPair) -> tuple[LoadedModel, LoadedModel]:
    return pair.source, pair.target


def _failed(outcome: Outcome) -> ReportSection:
    from pktkit.outcomes import ReportSection

    return ReportSection(outcome.choice.name, f"Failed: {outcome.error}")


def _pictures(name: str, result: AnalysisResult) -> dict[str, bytes]:
    """Return the figures by file name; an only figure is called as the analysis."""
    if len(result.figures) == 1:
        return {f"{name}.png": result.figures[0].png}
    return {f"{name}-{figure.name}.png": figure.png for figure in result.figures}


def _document(
    choice: Choice, result: AnalysisResult, pictures: Sequence[str], context: AnalysisContext
) -> str:
    from pktkit.report.jsonfile import plain

    pair = context.pair
    document: Mapping[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "analysis": choice.name,
        "title": result.title,
        "source": pair.source.location or pair.source.name,
        "target": pair.target.location or pair.target.name,
        "task": context.probe.task.name,
        "split": context.split,
        "seed": context.seed,
        "options": choice.options,
        "figures": [
            {"file": file, "caption": figure.caption, "alt": figure.alt}
            for file, figure in zip(pictures, result.figures, strict=True)
        ],
        "data": result.data,
    }
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def _announce(app: AppContext, choice: Choice) -> None:
    if app.verbosity >= 0:
        click.echo(f"analyze  {choice.name}", err=True)


def _print(outcome: Outcome) -> None:
    """Write an analysis' table to stdout."""
    result = outcome.result
    if result is None:
        return
    click.echo(f"{outcome.choice.name} · {result.title}")
    if result.table is not None:
        figures = range(1, len(result.table.headings))
        click.echo(table(result.table.headings, result.table.rows, right=figures))
    click.echo()

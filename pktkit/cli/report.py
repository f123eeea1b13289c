"""`pktkit report`: write the report of a run again, or of several runs as one comparison."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pktkit import logs
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import form_option
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED

if TYPE_CHECKING:
    from pktkit.compare.lock import Lock
    from pktkit.compare.resume import StoredRun
    from pktkit.outcomes import CellResult
    from pktkit.report.records import Summary


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="New or empty directory for the result. Default: one finished run's own; else none.",
)
@form_option("md", "json", "csv")
@pass_app
def report(app: AppContext, runs: tuple[Path, ...], out: Path | None, form: str) -> int:
    """Write the report of a run again, or merge several runs into one comparison.

    Runs are merged that were made under one protocol: other strategies, seeds or tasks, or parts
    of one plan. Unlike runs are refused with what differs. No model is needed.
    """
    from pktkit.compare.resume import stored_run
    from pktkit.report import render, wants_colour

    logs.configure(app.verbosity)
    stored = [stored_run(path) for path in runs]
    summary = _alone(app, stored[0], out) if len(stored) == 1 else _merged(app, stored, out)
    click.echo(render(summary, form, styled=wants_colour(sys.stdout)), nl=False)
    return EXIT_STRATEGY_FAILED if summary.any_failed else EXIT_OK


def _alone(app: AppContext, run: StoredRun, out: Path | None) -> Summary:
    """Report one run; the files of an unfinished one are left to the process that runs it."""
    from pktkit.compare.run import report as write_report
    from pktkit.compare.run import summary_of
    from pktkit.report.kept_sections import read_sections
    from pktkit.report.rundir import resume_command

    absent = [key for key in run.missing if key not in run.cells]
    if absent:
        total = len(run.lock.cells)
        click.echo(f"missing  {len(absent)} of {total} cells have not run", err=True)
        click.echo(f"go on    {resume_command(run.path)}", err=True)
    if run.lock.part:
        click.echo(f"part     {run.lock.part} of a comparison; name the others beside", err=True)
    if out is None and (absent or run.lock.part):
        return summary_of(run.lock, run.results)
    if out is not None:
        return _written(app, [run], run.lock, run.results, out)
    registry = app.with_selection(run.lock.plan.selection).registry
    with run.directory.claimed():
        summary = write_report(
            run.lock, registry, run.directory, run.results, read_sections(run.path)
        )
    _wrote(app, run.path)
    return summary


def _merged(app: AppContext, runs: Sequence[StoredRun], out: Path | None) -> Summary:
    from pktkit.compare.merge import environment_notes, merged
    from pktkit.compare.run import summary_of

    lock, results = merged(runs)
    for line in environment_notes(runs):
        click.echo(f"differs  {line}", err=True)
    absent = len(lock.cells) - len(results)
    if absent:
        total = len(lock.cells)
        click.echo(f"missing  {absent} of {total} cells are in none of the runs", err=True)
    if out is None:
        return summary_of(lock, results)
    return _written(app, runs, lock, results, out)


def _written(
    app: AppContext,
    runs: Sequence[StoredRun],
    lock: Lock,
    results: Sequence[CellResult],
    out: Path,
) -> Summary:
    """Write a run directory of its own: it can be resumed and merged as any other."""
    from pktkit.compare.run import report as write_report
    from pktkit.report.kept_sections import read_sections
    from pktkit.report.rundir import LOCK, RunDirectory

    sections = {section.title: section for run in runs for section in read_sections(run.path)}
    registry = app.with_selection(lock.plan.selection).registry
    directory = RunDirectory.create(out)
    with directory.claimed():
        directory.write(LOCK, lock.text())
        for result in results:
            directory.append_cell(result)
        if sections:
            directory.write_sections(list(sections.values()))
        summary = write_report(lock, registry, directory, results, list(sections.values()))
    _wrote(app, out)
    return summary


def _wrote(app: AppContext, path: Path) -> None:
    if app.verbosity >= 0:
        click.echo(f"wrote    {path}", err=True)

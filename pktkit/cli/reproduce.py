"""`pktkit reproduce`: run again from a lock, and say which numbers came out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from pktkit import logs
from pktkit.cli.context import AppContext, pass_app
from pktkit.cli.options import CODE_EXECUTION, TRUST_REMOTE_CODE, form_option
from pktkit.cli.running import as_begun, default_directory, run_watched, where_begun
from pktkit.errors import EXIT_OK, EXIT_STRATEGY_FAILED
from pktkit.tables import table

if TYPE_CHECKING:
    from pktkit.compare.lock import Lock
    from pktkit.compare.reproduce import Repetition, Reproduction

RECORD = "reproduction.json"
"""In the repetition's run directory: how it compares with the first run."""


@click.command()
@click.argument("lock_file", metavar="RUN.LOCK", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Run directory; new or empty.")
@click.option("--jobs", type=click.IntRange(min=0), help="Worker processes; 0: this process.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep readings of the models here. Default: for this run only.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Points by which a mean may differ and still count as reproduced.",
)
@click.option("--source", help="Where the source model is now; it must have the same files.")
@click.option("--target", help="Where the target model is now; it must have the same files.")
@click.option("--device", help="Torch device of both, if another than the lock's.")
@CODE_EXECUTION
@TRUST_REMOTE_CODE
@form_option("json")
@pass_app
def reproduce(
    app: AppContext,
    lock_file: Path,
    out: Path | None,
    jobs: int | None,
    cache: Path | None,
    tolerance: float,
    form: str,
    allow_code_execution: bool,
    trust_remote_code: bool,
    **places: str | None,
) -> int:
    """Repeat a run from its lock and compare the numbers with the run beside it.

    RUN.LOCK is a run.lock, or the run directory that holds it. Every score is compared: bit for
    bit, within the tolerance, or different, with what changed since. Ends with 1 if a number did
    not come out again.
    """
    from pktkit.compare.lock import Lock, read_lock
    from pktkit.compare.reproduce import reproduction
    from pktkit.compare.resume import stored_run
    from pktkit.report.rundir import CELLS, LOCK, RunDirectory

    logs.configure(app.verbosity)
    file = (lock_file / LOCK if lock_file.is_dir() else lock_file).absolute()
    out, cache = (out or default_directory()).absolute(), cache and cache.absolute()
    lock = _moved(read_lock(file).pinned, places)
    beside = stored_run(file) if (file.parent / CELLS).exists() and file.name == LOCK else None
    with where_begun(app, lock) as app:
        lock = as_begun(
            app,
            lock,
            allow_code_execution=allow_code_execution,
            trust_remote_code=trust_remote_code,
            where=f"the run of {file}",
        )
        again = Lock.of(lock.plan, app.registry, threads=lock.threads, analyses=lock.analyses)
        directory = RunDirectory.create(out)
        run_watched(app, again, directory, jobs=jobs, cache=cache)
    if beside is None:
        click.echo(f"ran, but there is no {CELLS} beside {file} to compare with", err=True)
        return EXIT_OK
    found = reproduction(
        beside.lock, beside.cells, stored_run(out).cells, again=again, tolerance=tolerance
    )
    document = json.dumps(found.document(), indent=2, ensure_ascii=False) + "\n"
    directory.write(RECORD, document)
    click.echo(document if form == "json" else _shown(found), nl=False)
    if app.verbosity >= 0:
        click.echo(f"wrote    {directory.path}", err=True)
    return EXIT_OK if found.reproduced else EXIT_STRATEGY_FAILED


def _moved(lock: Lock, places: dict[str, Any]) -> Lock:
    """Return the lock with models and device where they are now."""
    moved = {name: place for name, place in places.items() if place is not None}
    if "device" in moved:
        moved |= {"source_device": "", "target_device": ""}
    pair = attrs.evolve(lock.plan.pair, **moved)
    return attrs.evolve(lock, plan=attrs.evolve(lock.plan, pair=pair))


def _shown(found: Reproduction) -> str:
    headings = ("task", "strategy", "seeds", "first", "again", "difference", "items changed", "")
    lines = [table(headings, [_row(row) for row in found.rows], right=(3, 4, 5, 6))]
    lines.append(f"verdict  {found.verdict}; tolerance {found.tolerance:g} points")
    lines += [f"changed  {reason}" for reason in found.reasons]
    return "\n".join(lines) + "\n"


def _row(row: Repetition) -> tuple[str, ...]:
    from pktkit.points import place
    from pktkit.report.numbers import ABSENT, points, signed

    first, second = row.first, row.second
    known = first is not None and second is not None
    return (
        place(row.task, row.point),
        row.strategy,
        ",".join(map(str, row.seeds)) or ABSENT,
        ABSENT if first is None else points(first),
        ABSENT if second is None else points(second),
        signed(second - first) if known else ABSENT,  # type: ignore[operator]
        f"{row.changed_scores}/{row.items}",
        f"{row.match}{f': {row.reason}' if row.reason else ''}",
    )

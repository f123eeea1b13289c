"""A comparison from plan to report."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog

from pktkit.cache.directory import CacheDirectory
from pktkit.compare.lock import Lock
from pktkit.compare.plan import Plan
from pktkit.compare.sections import analysed, contributed
from pktkit.compare.watcher import Watcher
from pktkit.compare.workers import default_jobs, default_threads, run_cells
from pktkit.distributed.processes import ALONE, Processes
from pktkit.report.kept_sections import SECTIONS, read_sections
from pktkit.report.rundir import LOCK
from pktkit.report.summary import summarise

if TYPE_CHECKING:
    from pktkit.components import Choice
    from pktkit.outcomes import CellKey, CellResult, ReportSection
    from pktkit.registry import Registry
    from pktkit.report.records import Summary
    from pktkit.report.rundir import RunDirectory

log = structlog.get_logger(__name__)

REPORTED_PACKAGES = ("pktkit", "torch", "transformers", "peft", "numpy", "scipy")


def run_comparison(
    plan: Plan,
    registry: Registry,
    directory: RunDirectory,
    *,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    cache: Path | None = None,
    analyses: Sequence[Choice] = (),
    processes: Processes = ALONE,
    lock: Lock | None = None,
) -> Summary:
    """Run every cell that the directory lacks, record each as it finishes, and write the report.

    Arguments:
        plan: what to run.
        registry: for tasks, and for the plugins that contribute to the report.
        directory: receives lock, cells, results and report; cells it holds that did not fail
            are kept.
        jobs: worker processes; 0 runs in this process, None chooses.
        watcher: who is told.
        cache: directory of readings that outlives the run; None keeps them for this run only.
        analyses: run on the pair after the cells, on every task; each becomes a section.
        processes: that train together; this is process 0, the others `take_part`.
        lock: of the run, if it is made already; its plan and analyses are those that are run.

    Raises:
        PktkitError: a model cannot be loaded, a worker died, the disk is full, or another process
            runs cells into the directory.
    """
    watcher = watcher or Watcher()
    lock = lock or locked(plan, registry, jobs=jobs, analyses=analyses)
    if jobs != 0:  # what the report needs is imported while workers are busy
        threading.Thread(target=importlib.import_module, args=("scipy.stats",), daemon=True).start()
    with directory.claimed(), _readings(cache) as readings:
        results = _completed(lock, lock.cells, directory, jobs, watcher, readings, processes)
        if (directory.path / SECTIONS).exists():
            sections = read_sections(directory.path)
        else:
            sections = analysed(
                lock.plan, registry, directory, lock.analyses, cache=readings, watcher=watcher
            )
            if sections:
                directory.write_sections(sections)
        return report(lock, registry, directory, results, sections)


def run_part(
    lock: Lock,
    directory: RunDirectory,
    *,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    cache: Path | None = None,
    processes: Processes = ALONE,
) -> list[CellResult]:
    """Run and record the part of the cells that a lock names; nothing is claimed of a part.

    Arguments and errors as in `run_comparison`.
    """
    watcher = watcher or Watcher()
    with directory.claimed(), _readings(cache) as readings:
        return _completed(lock, lock.cells, directory, jobs, watcher, readings, processes)


def take_part(plan: Plan, *, cache: Path | None, processes: Processes) -> None:
    """Train and score along in the cells that process 0 runs; files are its.

    Raises:
        PktkitError: a model cannot be loaded, or some processes failed and some did not.
    """
    progress = Watcher().step
    with _readings(cache) as readings:
        for _ in run_cells(
            plan, (), jobs=0, cache=readings, progress=progress, processes=processes
        ):
            pass


def _completed(
    lock: Lock,
    cells: Sequence[CellKey],
    directory: RunDirectory,
    jobs: int | None,
    watcher: Watcher,
    cache: Path,
    processes: Processes,
) -> list[CellResult]:
    """Run the cells that the directory lacks, record each, and return all in the order given."""
    directory.drop_half_line()
    if not (directory.path / LOCK).exists():
        directory.write(LOCK, lock.text())
    results = {cell.key: cell for cell in directory.cells() if not cell.failed}
    missing = [key for key in cells if key not in results]
    if missing or processes.several:
        for result in run_cells(
            lock.plan,
            missing,
            jobs=suitable_jobs(lock.plan) if jobs is None else jobs,
            cache=cache,
            progress=watcher.step,
            threads=lock.threads,
            processes=processes,
        ):
            directory.append_cell(result)
            watcher.finished(result)
            results[result.key] = result
    return [results[key] for key in cells]


def locked(
    plan: Plan,
    registry: Registry,
    *,
    jobs: int | None,
    analyses: Sequence[Choice] = (),
    part: str = "",
) -> Lock:
    """Return the lock of a plan, or of a part of it, that is about to run.

    Arguments:
        plan: what will run.
        registry: of the plugins that it uses.
        jobs: worker processes asked for; None chooses.
        analyses: that will stand in the report.
        part: `i/n`; empty for all cells.

    Raises:
        UsageError: as `Lock.of`.
    """
    threads = default_threads(jobs, suitable_jobs(plan))
    return attrs.evolve(Lock.of(plan, registry, threads=threads, analyses=analyses), part=part)


def suitable_jobs(plan: Plan) -> int:
    """Return how many workers suit a plan."""
    return default_jobs(
        len(plan.cells()), devices=plan.pair.devices, checkpoint_bytes=checkpoint_bytes(plan)
    )


def report(
    lock: Lock,
    registry: Registry,
    directory: RunDirectory,
    results: Sequence[CellResult],
    sections: Sequence[ReportSection] = (),
) -> Summary:
    """Write the report of a run from its cells.

    Arguments:
        lock: of the run.
        registry: of the plugins that contribute to the report.
        directory: receives results and report.
        results: in the order of the table.
        sections: of analyses; curves and plugins' sections are added.

    Raises:
        PktkitError: a file cannot be written.
    """
    summary = summary_of(lock, results)
    contributions = contributed(summary, registry, directory)
    sections = [*sections, *contributions]
    directory.finish(summary, results, sections)
    return summary


def summary_of(lock: Lock, results: Sequence[CellResult]) -> Summary:
    """Return rows, contrasts and verdict of the cells of a run."""
    strategies, evidence = lock.plan.strategies, lock.plan.evidence
    return summarise(
        results,
        roles={strategy.name: strategy.role for strategy in strategies},
        meaning={s.name: s.isolates for s in strategies if s.isolates},
        placebo_of={s.name: s.placebo_of for s in strategies if s.placebo_of},
        plan=describe_plan(lock),
        alpha=evidence.alpha,
        n_boot=evidence.n_boot,
        references=evidence.references,
    )


@contextlib.contextmanager
def _readings(cache: Path | None) -> Iterator[Path]:
    """Give the user's directory of readings, or one that is removed at the end.

    The latter also where the user's cannot be written to, which is said once, here.
    """
    if cache is not None:
        try:
            CacheDirectory(cache).trial()
        except OSError as error:
            log.warning(
                "the cache of readings cannot be written to, going on without it",
                directory=str(cache),
                reason=str(error),
            )
        else:
            yield cache
            return
    with tempfile.TemporaryDirectory(prefix="pktkit-") as temporary:
        yield Path(temporary)


def describe_plan(lock: Lock) -> Mapping[str, Any]:
    """Return what determines the scores, JSON-serialisable and without times."""
    plan = lock.plan
    return {
        "pair": attrs.asdict(plan.pair),
        "tasks": list(plan.tasks),
        "split": plan.split,
        "seeds": list(plan.seeds),
        "points": list(plan.points),
        "equal": plan.equal,
        "strategies": {
            strategy.name: {
                **attrs.asdict(strategy, filter=lambda field, value: bool(value)),
                "budget": {
                    name: dict(task.budgets[strategy.name])
                    for name, task in lock.tasks.items()
                    if strategy.name in task.budgets
                },
            }
            for strategy in plan.strategies
        },
        "comparability": {name: dict(task.comparability) for name, task in lock.tasks.items()},
        "probe": attrs.asdict(plan.settings),
        "evidence": attrs.asdict(plan.evidence),
        "template": plan.template or "task",
        "python": lock.environment.python,
        "packages": {
            name: version
            for name, version in lock.environment.packages.items()
            if name in REPORTED_PACKAGES
        },
    }


def checkpoint_bytes(plan: Plan) -> int:
    """Return the size of both checkpoints on disk.

    What is not there yet counts as large, and so does a GGUF file, which grows when unpacked.
    """
    from pktkit.checkpoints import local_files

    total = 0
    for reference in (plan.pair.source, plan.pair.target):
        found = local_files(reference)
        files = [] if found is None or found.is_gguf else list(found.path.glob("*.safetensors"))
        total += sum(file.stat().st_size for file in files) if files else 1 << 40
    return total

"""A comparison from plan to report."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.checkpoints import local_files
from pktkit.compare.parts import Part
from pktkit.compare.plan import Plan, choose_task, scored
from pktkit.compare.sections import analysed, contributed
from pktkit.compare.workers import default_jobs, run_cells
from pktkit.processes import ALONE, Processes
from pktkit.report.curves import curve_sections
from pktkit.report.summary import summarise
from pktkit.transfer import budget_for

if TYPE_CHECKING:
    from pktkit.compare.cells import CellProgress
    from pktkit.components import Choice
    from pktkit.outcomes import CellKey, CellResult
    from pktkit.registry import Registry
    from pktkit.report.records import Summary
    from pktkit.report.rundir import RunDirectory

REPORTED_PACKAGES = ("pktkit", "torch", "transformers", "peft", "numpy", "scipy")


@attrs.frozen(eq=False)
class Watcher:
    """Who is told what happens during a run.

    Arguments:
        step: called with (cell, step, steps, loss).
        finished: called with each cell's result.
        analysing: called with the name of each analysis and the task, when it starts.
    """

    step: CellProgress = lambda key, step, steps, loss: None
    finished: Callable[[CellResult], None] = lambda result: None
    analysing: Callable[[str, str], None] = lambda name, task: None


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
) -> Summary:
    """Run every cell, record each as it finishes, and write the report.

    Arguments:
        plan: what to run.
        registry: for tasks, and for the plugins that contribute to the report.
        directory: receives cells, results and report.
        jobs: worker processes; 0 runs in this process, None chooses.
        watcher: who is told.
        cache: directory of readings that outlives the run; None keeps them for this run only.
        analyses: run on the pair after the cells, on every task; each becomes a section.
        processes: that train together; this is process 0, the others `take_part`.

    Raises:
        PktkitError: a model cannot be loaded, or a worker died.
    """
    watcher = watcher or Watcher()
    cells = plan.cells()
    with _readings(cache) as readings:
        results = _run(plan, cells, directory, jobs, watcher, readings, processes)
        sections = analysed(plan, registry, directory, analyses, cache=readings, watcher=watcher)
    summary = summarise(
        results,
        roles={strategy.name: strategy.role for strategy in plan.strategies},
        meaning={s.name: s.isolates for s in plan.strategies if s.isolates},
        placebo_of={s.name: s.placebo_of for s in plan.strategies if s.placebo_of},
        plan=describe_plan(plan, registry),
        alpha=plan.evidence.alpha,
        n_boot=plan.evidence.n_boot,
        references=plan.evidence.references,
    )
    sections = [*curve_sections(summary), *sections]
    sections += contributed(summary, registry, directory)
    directory.finish(summary, results, sections)
    return summary


def run_part(
    plan: Plan,
    part: Part,
    directory: RunDirectory,
    *,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    cache: Path | None = None,
    processes: Processes = ALONE,
) -> list[CellResult]:
    """Run and record one part of the cells; nothing is claimed before the parts are merged.

    Arguments and errors as in `run_comparison`.
    """
    with _readings(cache) as readings:
        return _run(plan, part.cells, directory, jobs, watcher or Watcher(), readings, processes)


def take_part(plan: Plan, *, cache: Path | None, processes: Processes) -> None:
    """Train along in the cells that process 0 runs; scores and files are its.

    Raises:
        PktkitError: a model cannot be loaded, or some processes failed and some did not.
    """
    progress = Watcher().step
    with _readings(cache) as readings:
        for _ in run_cells(
            plan, (), jobs=0, cache=readings, progress=progress, processes=processes
        ):
            pass


def _run(
    plan: Plan,
    cells: Sequence[CellKey],
    directory: RunDirectory,
    jobs: int | None,
    watcher: Watcher,
    cache: Path,
    processes: Processes,
) -> list[CellResult]:
    """Run cells, record each as it finishes, and return the results in the order given."""
    if jobs is None:
        jobs = default_jobs(
            len(cells), devices=plan.pair.devices, checkpoint_bytes=checkpoint_bytes(plan)
        )
    results = []
    for result in run_cells(
        plan, cells, jobs=jobs, cache=cache, progress=watcher.step, processes=processes
    ):
        directory.append_cell(result)
        watcher.finished(result)
        results.append(result)
    position = {key: index for index, key in enumerate(cells)}
    return sorted(results, key=lambda result: position[result.key])


@contextlib.contextmanager
def _readings(cache: Path | None) -> Iterator[Path]:
    """Give the user's directory of readings, or one that is removed at the end."""
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="pktkit-") as temporary:
        yield Path(temporary)


def describe_plan(plan: Plan, registry: Registry) -> Mapping[str, Any]:
    """Return what determines the scores, JSON-serialisable and without times."""
    tasks = {name: choose_task(registry, name) for name in plan.tasks}
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
                    name: attrs.asdict(budget_for(task, strategy)) for name, task in tasks.items()
                }
                if strategy.injector
                else {},
            }
            for strategy in plan.strategies
        },
        "comparability": {
            name: scored(task, plan).comparability(plan.split) for name, task in tasks.items()
        },
        "probe": attrs.asdict(plan.settings),
        "evidence": attrs.asdict(plan.evidence),
        "template": plan.template or "task",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in REPORTED_PACKAGES},
    }


def checkpoint_bytes(plan: Plan) -> int:
    """Return the size of both checkpoints on disk.

    What is not there yet counts as large, and so does a GGUF file, which grows when unpacked.
    """
    total = 0
    for reference in (plan.pair.source, plan.pair.target):
        found = local_files(reference)
        files = [] if found is None or found.is_gguf else list(found.path.glob("*.safetensors"))
        total += sum(file.stat().st_size for file in files) if files else 1 << 40
    return total

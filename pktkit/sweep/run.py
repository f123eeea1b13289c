"""A sweep from its lock to its outcome: trial after trial, each over all seeds, on dev."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.budget import REFERENCE
from pktkit.compare.lock import resolved
from pktkit.compare.plan import Plan, choose_task
from pktkit.compare.run import checkpoint_bytes
from pktkit.compare.watcher import Watcher
from pktkit.compare.workers import default_jobs, run_cells, torch_threads
from pktkit.components import Kind, Strategy
from pktkit.errors import PktkitError, StrategyError, UsageError
from pktkit.outcomes import CellKey, CellResult
from pktkit.recipe import dump_recipe, plain_value
from pktkit.sweep.directory import LOCK, SweepDirectory, SweepLock, Trial
from pktkit.sweep.sampling import make_sampler
from pktkit.sweep.space import Dimension, configured, size
from pktkit.transfer import budget_for

if TYPE_CHECKING:
    from pktkit.compare.cells import CellRunner
    from pktkit.registry import Registry

SPLIT = "dev"
"""Where settings are chosen, always."""


def varied(strategy: Strategy) -> Strategy:
    """Return a strategy as trial 0: under test, whatever it is elsewhere.

    Raises:
        UsageError: it injects nothing, so that there is nothing to choose.
    """
    if strategy.injector is None:
        raise UsageError(f"strategy '{strategy.name}' is an untouched model; nothing to search.")
    return attrs.evolve(strategy, role="method", placebo_of=(), isolates="")


def beside(strategy: Strategy, registry: Registry) -> list[Strategy]:
    """Return what stands beside the trials: the untouched target, and plain fine-tuning."""
    known = [registry.strategy(name) for name in registry.names(Kind.STRATEGY)]
    return [
        other
        for other in known
        if (other.role == "target" or other.name == REFERENCE) and other.name != strategy.name
    ]


def suitable_jobs(plan: Plan) -> int:
    """Return how many workers suit a trial: one per seed, or none, so that models stay loaded."""
    jobs = default_jobs(
        len(plan.seeds), devices=plan.pair.devices, checkpoint_bytes=checkpoint_bytes(plan)
    )
    return jobs if jobs > 1 else 0


def run_sweep(
    lock: SweepLock,
    registry: Registry,
    directory: SweepDirectory,
    *,
    jobs: int | None = None,
    watcher: Watcher | None = None,
    cache: Path | None = None,
) -> tuple[list[Trial], Mapping[CellKey, CellResult]]:
    """Run every trial that the directory lacks, and record each as it ends.

    Arguments:
        lock: what to run.
        registry: of the plugins that it selects.
        directory: receives lock, cells and trials; those it holds are kept.
        jobs: worker processes per trial; 0 runs in this process, None chooses.
        watcher: who is told.
        cache: directory of readings that outlives the sweep.

    Returns:
        All trials in order, and the cells by key.

    Raises:
        PktkitError: a model cannot be loaded, the disk is full, or the trials on disk are not
            those that this sampler proposes.
    """
    kept: AbstractContextManager[Any] = (
        tempfile.TemporaryDirectory(prefix="pktkit-") if cache is None else nullcontext(cache)
    )
    jobs = suitable_jobs(lock.run.plan) if jobs is None else jobs
    with directory.run.claimed(), kept as readings, torch_threads(lock.run.threads):
        directory.drop_half_lines()
        if not (directory.path / LOCK).exists():
            directory.run.write(LOCK, lock.text())
        cells = _Cells(lock, directory, jobs, watcher or Watcher(), Path(readings))
        return list(_trials(lock, registry, directory, cells)), cells.results


def _trials(
    lock: SweepLock, registry: Registry, directory: SweepDirectory, cells: _Cells
) -> Iterator[Trial]:
    """Yield all trials: those on disk, checked, then those that are run now."""
    search, plan = lock.search, lock.run.plan
    base = plan.strategy(search.strategy)
    stored = {trial.number: trial for trial in directory.trials()}
    cells.run([other for other in plan.strategies if other.name != base.name])
    sampler = make_sampler(search.sampler, search.space, search.seed)
    first = stored.get(0) or _judged(
        Trial(0, base.name, registered_values(plan, base, search.space, registry)), base, cells
    )
    if 0 not in stored:
        directory.append(first)
    yield first
    seen, ends = {_content(base): first}, size(search.space)
    proposed: set[str] = set()
    for number in range(1, search.trials + 1):
        sampled = sampler.ask()
        if sampled is None or len(proposed) == ends:
            return
        values = {d.name: d.value(sampled[d.name]) for d in search.space}
        trial = Trial(number, f"{base.name}-{number}", plain_value(values), sampled)
        if number in stored:
            _require_same(stored[number], trial, lock, directory)
            trial = stored[number]
        else:
            trial = _run(trial, base, registry, cells, seen)
            directory.append(trial)
        proposed.add(repr(values))
        if trial.same_as is None:
            seen.setdefault(_described(trial, base, registry), trial)
        sampler.tell(trial.score)
        yield trial


def registered_values(
    plan: Plan, base: Strategy, space: Sequence[Dimension], registry: Registry
) -> dict[str, Any]:
    """Return what the strategy has where the space varies it."""
    budget = attrs.asdict(budget_for(choose_task(registry, plan.tasks[0]), base))
    stages = {
        kind: dict(choice.options)
        for kind in ("matcher", "aligner", "injector")
        if (choice := getattr(base, kind)) is not None
    }
    return {d.name: plain_value({**stages, "budget": budget}[d.stage][d.option]) for d in space}


def configuration(trial: Trial, base: Strategy, registry: Registry) -> Strategy:
    """Return the strategy of a trial, every option written out.

    Raises:
        UsageError: its values do not go together.
    """
    if trial.number == 0:
        return base
    changed = attrs.evolve(configured(base, trial.values), name=trial.strategy)
    return resolved(changed, registry)


def _run(
    trial: Trial,
    base: Strategy,
    registry: Registry,
    cells: _Cells,
    seen: Mapping[str, Trial],
) -> Trial:
    """Run one trial, unless its configuration has run; what fails is its result."""
    try:
        strategy = configuration(trial, base, registry)
    except PktkitError as error:
        return attrs.evolve(trial, error=str(error))
    before = seen.get(_content(strategy))
    if before is not None:
        return attrs.evolve(trial, score=before.score, error=before.error, same_as=before.number)
    return _judged(trial, strategy, cells)


def _judged(trial: Trial, strategy: Strategy, cells: _Cells) -> Trial:
    """Run a trial's cells and return it with its score; one failed seed fails it."""
    try:
        results = cells.run([strategy])
    except StrategyError as error:
        return attrs.evolve(trial, error=str(error))
    failed = [result for result in results if result.failed]
    if failed:
        seeds = ", ".join(str(result.key.seed) for result in failed)
        return attrs.evolve(trial, error=f"seed {seeds}: {failed[0].error}")
    return attrs.evolve(trial, score=100.0 * sum(r.mean for r in results) / len(results))


def _content(strategy: Strategy) -> str:
    return dump_recipe(attrs.evolve(strategy, name="any"))


def _described(trial: Trial, base: Strategy, registry: Registry) -> str:
    try:
        return _content(configuration(trial, base, registry))
    except PktkitError:
        return repr(trial.values)


def _require_same(
    stored: Trial, proposed: Trial, lock: SweepLock, directory: SweepDirectory
) -> None:
    """Refuse to go on with trials that this sampler would not have proposed."""
    if stored.values == proposed.values:
        return
    search = lock.search
    made = f"optuna {search.optuna}" if search.optuna else "another pktkit"
    raise UsageError(
        f"trial {stored.number} in {directory.path} is {stored.values}, but sampler "
        f"'{search.sampler}' with seed {search.seed} proposes {proposed.values} now. It was begun "
        f"with {made}; use that version. Nothing was changed."
    )


class _Cells:
    """Runs the cells of strategies that the directory lacks; keeps all results by key."""

    def __init__(
        self,
        lock: SweepLock,
        directory: SweepDirectory,
        jobs: int,
        watcher: Watcher,
        cache: Path,
    ) -> None:
        self._lock = lock
        self._directory = directory
        self._jobs = jobs
        self._watcher = watcher
        self._cache = cache
        self._runner: CellRunner | None = None
        known = directory.run.cells()
        self.results = {cell.key: cell for cell in known if not cell.failed}

    def run(self, strategies: Sequence[Strategy]) -> list[CellResult]:
        """Return the results of strategies over all seeds."""
        plan = attrs.evolve(self._lock.run.plan, strategies=tuple(strategies))
        keys = plan.cells()
        missing = [key for key in keys if key not in self.results]
        for result in self._results(plan, missing):
            self._directory.run.append_cell(result)
            self._watcher.finished(result)
            self.results[result.key] = result
        return [self.results[key] for key in keys]

    def _results(self, plan: Plan, missing: Sequence[CellKey]) -> Iterator[CellResult]:
        if not missing:
            return
        if self._jobs:
            yield from run_cells(
                plan,
                missing,
                jobs=min(self._jobs, len(missing)),
                cache=self._cache,
                progress=self._watcher.step,
                threads=self._lock.run.threads,
            )
            return
        from pktkit.compare.cells import CellRunner

        # One runner for all trials: models, encodings and readings are the same in each.
        self._runner = self._runner or CellRunner(plan, cache=self._cache)
        self._runner.plan = plan
        for key in missing:
            yield self._runner.run(key, self._watcher.step)

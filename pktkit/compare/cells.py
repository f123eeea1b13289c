"""Running one cell: transfer, evaluate, put the target back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import structlog

from pktkit.compare.memory import PeakMemory
from pktkit.compare.parity import Costs, flop_costs, reference_arm, token_costs, trial_steps
from pktkit.compare.plan import Plan, choose_task, scored
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import JournalError, LaunchError, PktkitError, UsageError
from pktkit.journal import Journal
from pktkit.memory import does_not_fit, is_out_of_memory
from pktkit.meter import SOURCE, TARGET, Meter
from pktkit.outcomes import CellKey, CellResult, Spent
from pktkit.permission import code_execution
from pktkit.points import budget_at, point_fields
from pktkit.registry import Registry
from pktkit.running.scoring import scores_of
from pktkit.running.stages import Stages
from pktkit.states.source import WrittenSource
from pktkit.tracing import Trace, TraceEvent
from pktkit.transfer import Transferred, budget_for, run_transfer, transfer_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.budget import Budget
    from pktkit.components import Strategy
    from pktkit.outcomes import ItemScore
    from pktkit.pair import LoadedModel
    from pktkit.probe import Probe
    from pktkit.tasks.base import Task
    from pktkit.training import TransferData

log = structlog.get_logger(__name__)

CellProgress = Callable[[CellKey, int, int, float], None]


class CellRunner:
    """Runs cells of a plan one after another on one loaded pair."""

    def __init__(
        self,
        plan: Plan,
        *,
        cache: Path | None = None,
        registry: Registry | None = None,
        processes: Processes = ALONE,
    ) -> None:
        """Load the pair.

        Arguments:
            plan: the comparison.
            cache: directory of readings shared with other workers.
            registry: instead of the one that the plan's plugin selection gives.
            processes: that run the same cells, train each target together and score it together.

        Raises:
            PktkitError: a model cannot be loaded.
        """
        self.plan = plan
        self.processes = processes
        self.registry = registry or Registry.discover(plan.selection)
        self._events: list[TraceEvent] = []
        if plan.trace:
            self.registry.plugins.trace = Trace(self._events.append)
        self.pair = self.plan.pair.load()
        self._cache = cache
        self._tasks: dict[str, Task] = {}
        self._probes: dict[str, Probe] = {}
        self._tried: dict[tuple[str, str, str, int], Costs] = {}

    def run(self, key: CellKey, progress: CellProgress | None = None) -> CellResult:
        """Run one cell; expected errors become its result, and the target is as before after.

        Raises:
            LaunchError: of several processes, some failed and some did not.
        """
        strategy = self.plan.strategy(key.strategy)
        with PeakMemory(self.plan.pair.devices) as peak:
            result = self._result(key, strategy, progress)
        trace, self._events[:] = tuple(self._events), []
        return attrs.evolve(result, peak_bytes=peak.bytes, trace=trace)

    def _result(
        self, key: CellKey, strategy: Strategy, progress: CellProgress | None
    ) -> CellResult:
        start = time.perf_counter()
        try:
            if strategy.injector is None:
                result = self._untouched(key, strategy)
            else:
                budget = self._budget(key, strategy)
                start = time.perf_counter()  # what other arms cost is no part of this one
                result = self._transferred(key, strategy, budget, progress)
        except LaunchError:
            raise
        except PktkitError as error:
            result = CellResult(key, error=str(error))
        except Exception as error:
            if is_out_of_memory(error):
                result = CellResult(key, error=str(does_not_fit(error)))
            else:
                result = CellResult(key, error=f"{type(error).__name__}: {error}")
        rest = time.perf_counter() - start - sum(result.seconds.values())
        return attrs.evolve(
            result,
            seconds={**result.seconds, "other": rest},
            notes=self._probe(key.task).notes if key.task in self._probes else (),
        )

    def _untouched(self, key: CellKey, strategy: Strategy) -> CellResult:
        model = self.pair.source if strategy.role == "source" else self.pair.target
        if isinstance(model, WrittenSource):
            return CellResult(key, scores=model.scores(self._task(key.task), self.plan.split))
        with self._failing_together(f"{key}"):
            journal = Journal(model)
        stages = Stages(key, self.registry, journal)
        try:
            with self._failing_together(f"scores of {key}"):
                scores = self._evaluate(model, stages)
        finally:
            self._require_pristine(journal)
        return CellResult(key, scores=scores, seconds=stages.seconds)

    def _transferred(
        self, key: CellKey, strategy: Strategy, budget: Budget, progress: CellProgress | None
    ) -> CellResult:
        journal = Journal(self.pair.target)

        def report(step: int, steps: int, loss: float) -> None:
            if progress is not None:
                progress(key, step, steps, loss)

        start = time.perf_counter()
        try:
            with journal:
                with self._failing_together(f"{key}"), self._meter() as meter:
                    data = self._data(key, budget, report)
                    reading = time.perf_counter() - start
                    done = self._transfer(key, strategy, data, journal)
                # A journal of its own: what the injector wrote must not change any more.
                with self._failing_together(f"scores of {key}"):
                    stages = Stages(key, self.registry, Journal(self.pair.target))
                    scores = self._evaluate(self.pair.target, stages)
                seconds = {"data": reading, **done.seconds, **stages.seconds}
        finally:
            journal.rollback()
            self._require_pristine(journal)
        return CellResult(
            key,
            scores=scores,
            injection=done.injection,
            layer_map="" if done.layer_map is None else done.layer_map.described,
            seconds=seconds,
            spent=Spent(len(data.rows), meter.flops(SOURCE), meter.flops(TARGET)),
        )

    def _budget(self, key: CellKey, strategy: Strategy) -> Budget:
        """Return an arm's budget at a point, with the steps that make it equal if asked for."""
        budget = budget_at(budget_for(self._task(key.task), strategy), key.point)
        reference = reference_arm(self.plan.strategies)
        if not self.plan.equal or reference is None or strategy.name == reference.name:
            return budget
        theirs = budget_at(budget_for(self._task(key.task), reference), key.point)
        if self.plan.equal == "steps":
            return attrs.evolve(budget, steps=theirs.steps)
        allowed = self._costs(key, reference, theirs).after(theirs.steps)
        steps = self._costs(key, strategy, budget).steps_for(allowed)
        return budget if steps is None else attrs.evolve(budget, steps=steps)

    def _costs(self, key: CellKey, strategy: Strategy, budget: Budget) -> Costs:
        """Try an arm with few steps, once, and put the target back."""
        known = (strategy.name, key.task, key.point, key.seed)
        if known not in self._tried:
            self._tried[known] = self._try(key, strategy, budget)
        return self._tried[known]

    def _try(self, key: CellKey, strategy: Strategy, budget: Budget) -> Costs:
        journal = Journal(self.pair.target)
        try:
            where = f"trial of {strategy.name} for {key}"
            with journal, self._failing_together(where), self._meter() as meter:
                data = self._data(key, budget)
                taken = trial_steps(data, self.pair.target.anatomy.n_blocks)
                data = attrs.evolve(data, trial=taken)
                done = self._transfer(key, strategy, data, journal)
        finally:
            journal.rollback()
            self._require_pristine(journal)
        if self.plan.equal == "flops":
            return flop_costs(data, meter, taken)
        return token_costs(data, done.injection.tokens if done.injection else 0, taken)

    def _meter(self) -> AbstractContextManager[Meter]:
        return Meter(self.pair.source, self.pair.target).counting()

    @contextlib.contextmanager
    def _failing_together(self, where: str) -> Iterator[None]:
        """Let an error through that all processes have; one that some have ends the run."""
        try:
            yield
        except Exception as error:
            self.processes.require_all_failed(where, error)
            raise

    def _data(
        self,
        key: CellKey,
        budget: Budget,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> TransferData:
        """Draw the rows of a cell.

        Raises:
            UsageError: a point of a curve has fewer rows than its name says.
        """
        data = transfer_data(self._probe(key.task), budget, key.seed, progress, self.processes)
        wanted = point_fields(key.point).get("rows", 0)
        available = len(data.probe.encoded("train").items)
        if wanted > available:
            raise UsageError(
                f"point {key.point} needs {wanted} rows, but of split 'train' of task "
                f"'{key.task}' {available} fit {self.plan.settings.max_length} tokens. Lower "
                "--rows, or raise --max-length."
            )
        return data

    def _require_pristine(self, journal: Journal) -> None:
        """Load the pair again when something changed a model without the journal's knowledge."""
        try:
            journal.verify()
        except JournalError as error:
            log.warning(
                "a model was changed behind the journal, loading the pair again", what=str(error)
            )
            self.pair = self.plan.pair.load()
            self._probes.clear()

    def _transfer(
        self, key: CellKey, strategy: Strategy, data: TransferData, journal: Journal
    ) -> Transferred:
        return run_transfer(
            strategy,
            self.pair,
            self._probe(key.task),
            data,
            journal,
            self.registry,
            task=key.task,
            point=key.point,
        )

    def _evaluate(self, model: LoadedModel, stages: Stages) -> Sequence[ItemScore]:
        task = self._task(stages.key.task)
        with code_execution(self.plan.allow_code_execution):
            return scores_of(model, task, self.plan.split, stages, self.processes)

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            self._tasks[name] = scored(choose_task(self.registry, name), self.plan)
        return self._tasks[name]

    def _probe(self, name: str) -> Probe:
        from pktkit.probe import Probe, ReadingCache

        if name not in self._probes:
            self._probes[name] = Probe(
                self.pair,
                self._task(name),
                settings=self.plan.settings,
                cache=ReadingCache(self._cache, self.plan.settings.cache_bytes),
            )
        return self._probes[name]

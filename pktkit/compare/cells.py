"""Running one cell: transfer, evaluate, put the target back."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import structlog

from pktkit.boundary import checked_scores
from pktkit.compare.plan import Plan, choose_task
from pktkit.components import Kind
from pktkit.errors import JournalError, PktkitError
from pktkit.journal import Journal
from pktkit.outcomes import CellKey, CellResult
from pktkit.points import budget_at
from pktkit.registry import Registry
from pktkit.stages import EVALUATE, Stages
from pktkit.states.source import WrittenSource
from pktkit.tracing import Trace, TraceEvent
from pktkit.transfer import Transferred, budget_for, run_transfer, transfer_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pktkit.components import Strategy
    from pktkit.outcomes import ItemScore
    from pktkit.pair import LoadedModel
    from pktkit.probe import Probe
    from pktkit.tasks.base import Task

log = structlog.get_logger(__name__)

CellProgress = Callable[[CellKey, int, int, float], None]


class CellRunner:
    """Runs cells of a plan one after another on one loaded pair."""

    def __init__(
        self, plan: Plan, *, cache: Path | None = None, registry: Registry | None = None
    ) -> None:
        """Load the pair.

        Arguments:
            plan: the comparison.
            cache: directory of readings shared with other workers.
            registry: instead of the one that the plan's plugin selection gives.

        Raises:
            PktkitError: a model cannot be loaded.
        """
        self.plan = plan
        self.registry = registry or Registry.discover(plan.selection)
        self._events: list[TraceEvent] = []
        if plan.trace:
            self.registry.plugins.trace = Trace(self._events.append)
        self.pair = self.plan.pair.load()
        self._cache = cache
        self._tasks: dict[str, Task] = {}
        self._probes: dict[str, Probe] = {}

    def run(self, key: CellKey, progress: CellProgress | None = None) -> CellResult:
        """Run one cell; expected errors become its result, and the target is as before after."""
        start = time.perf_counter()
        strategy = self.plan.strategy(key.strategy)
        try:
            if strategy.injector is None:
                result = self._untouched(key, strategy)
            else:
                result = self._transferred(key, strategy, progress)
        except PktkitError as error:
            result = CellResult(key, error=str(error))
        except Exception as error:
            result = CellResult(key, error=f"{type(error).__name__}: {error}")
        rest = time.perf_counter() - start - sum(result.seconds.values())
        seconds = {**result.seconds, "other": rest}
        trace, self._events[:] = tuple(self._events), []
        return attrs.evolve(
            result, seconds=seconds, peak_bytes=peak_bytes(self.plan.pair.device), trace=trace
        )

    def _untouched(self, key: CellKey, strategy: Strategy) -> CellResult:
        model = self.pair.source if strategy.role == "source" else self.pair.target
        if isinstance(model, WrittenSource):
            return CellResult(key, scores=model.scores(self._task(key.task), self.plan.split))
        journal = Journal(model)
        stages = Stages(key, self.registry, journal)
        try:
            scores = self._evaluate(model, stages)
        finally:
            self._require_pristine(journal)
        return CellResult(key, scores=scores, seconds=stages.seconds)

    def _transferred(
        self, key: CellKey, strategy: Strategy, progress: CellProgress | None
    ) -> CellResult:
        journal = Journal(self.pair.target)
        try:
            with journal:
                done = self._transfer(key, strategy, journal, progress)
                # A journal of its own: what the injector wrote must not change any more.
                stages = Stages(key, self.registry, Journal(self.pair.target))
                scores = self._evaluate(self.pair.target, stages)
                seconds = {**done.seconds, **stages.seconds}
        finally:
            journal.rollback()
            self._require_pristine(journal)
        return CellResult(
            key,
            scores=scores,
            injection=done.injection,
            layer_map="" if done.layer_map is None else str(done.layer_map),
            seconds=seconds,
        )

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
        self,
        key: CellKey,
        strategy: Strategy,
        journal: Journal,
        progress: CellProgress | None,
    ) -> Transferred:
        probe = self._probe(key.task)
        budget = budget_at(budget_for(self._task(key.task), strategy), key.point)

        def report(step: int, steps: int, loss: float) -> None:
            if progress is not None:
                progress(key, step, steps, loss)

        data = transfer_data(probe, budget, key.seed, report)
        return run_transfer(
            strategy, self.pair, probe, data, journal, self.registry, task=key.task, point=key.point
        )

    def _evaluate(self, model: LoadedModel, stages: Stages) -> Sequence[ItemScore]:
        task, split = self._task(stages.key.task), self.plan.split
        return stages.run(
            EVALUATE,
            Kind.EVALUATOR,
            task.evaluator,
            lambda evaluator: checked_scores(
                evaluator.evaluate(model, task, split), task.items(split)
            ),
            shown=lambda scores: f"{len(scores)} scores",
        )

    def _task(self, name: str) -> Task:
        if name not in self._tasks:
            task, split = choose_task(self.registry, name), self.plan.split
            items = task.items(split)[: self.plan.item_limit]
            self._tasks[name] = attrs.evolve(task, splits={**task.splits, split: items})
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


def peak_bytes(device: str) -> int:
    """Return the peak memory of the accelerator, or of this process on the CPU."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

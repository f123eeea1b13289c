"""One strategy, from match to inject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import attrs

from pktkit.budget import Budget
from pktkit.components import Kind, Strategy
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.outcomes import CellKey
from pktkit.running.boundary import checked_alignment, checked_injection, checked_layer_map
from pktkit.running.shapes import alignment_shapes, injection_figures
from pktkit.running.stages import ALIGN, INJECT, MATCH, Stages
from pktkit.values import Alignment, Injection, LayerMap

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task
    from pktkit.training import TransferData


@attrs.frozen(eq=False)
class Transferred:
    """What a transfer did; the target now carries it.

    Arguments:
        layer_map: None for strategies without a matcher.
        alignment: what the aligner gave.
        injection: None for strategies without an injector.
        seconds: wall time by stage.
    """

    layer_map: LayerMap | None
    alignment: Alignment | None
    injection: Injection | None
    seconds: Mapping[str, float]


def budget_for(task: Task, strategy: Strategy) -> Budget:
    """Return the budget of a strategy on a task.

    The task's card decides, then what the strategy fixes (with the user's overrides in it).

    Raises:
        UsageError: a field is unknown or its value is refused.
    """
    fields = {**task.budget, **strategy.budget}
    budget: Budget = build_options(Budget, fields, f"budget of strategy '{strategy.name}'")
    return budget


def transfer_data(
    probe: Probe,
    budget: Budget,
    seed: int,
    progress: Callable[[int, int, float], None] | None = None,
    processes: Processes = ALONE,
) -> TransferData:
    """Draw what one run may learn from; with equal budget and seed, every strategy gets the same.

    The drawn rows carry gold answers, or the source's where `budget.labels` says so;
    `budget.unlabelled` further prompts always carry the source's.

    Raises:
        UsageError: fewer prompts remain than `budget.unlabelled` asks for.
    """
    from pktkit.probe.answers import SUFFIX
    from pktkit.training import TransferData

    ids = [item.id for item in probe.encoded("train").items]
    rows, further = transfer_rows(len(ids), budget, seed)
    if budget.labels == "source" or further:
        asked = [*(rows if budget.labels == "source" else ()), *further]
        probe.count_answers(len(asked))
        probe = probe.answered
        wanted = {ids[row] for row in rows} if budget.labels == "gold" else set()
        wanted |= {ids[row] + SUFFIX for row in asked}
        rows = tuple(
            row for row, item in enumerate(probe.encoded("train").items) if item.id in wanted
        )
    data = TransferData(probe, rows, budget, seed, processes=processes)
    return data if progress is None else attrs.evolve(data, progress=progress)


def transfer_rows(
    available: int, budget: Budget, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw the training rows of one seed, and further unlabelled ones, each ascending.

    Raises:
        UsageError: fewer rows remain than `budget.unlabelled` asks for.
    """
    import torch

    count = available if budget.rows == 0 else min(budget.rows, available)
    if budget.unlabelled > available - count:
        raise UsageError(
            f"budget.unlabelled asks for {budget.unlabelled} further prompts, but of the "
            f"{available} rows of split 'train' {count} are drawn as rows and "
            f"{available - count} remain. Lower budget.rows or budget.unlabelled."
        )
    if count == available:
        return tuple(range(available)), ()
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed)).tolist()
    further = order[count : count + budget.unlabelled]
    return tuple(sorted(order[:count])), tuple(sorted(further))


def run_transfer(
    strategy: Strategy,
    pair: ModelPair,
    probe: Probe,
    data: TransferData,
    journal: Journal,
    registry: Registry,
    *,
    task: str,
    point: str = "",
) -> Transferred:
    """Match, align and inject; the journal holds what was changed.

    Arguments:
        task, point: what observers are told is run; the budget is that of `data`.

    Raises:
        PktkitError: what a stage raised, with strategy, stage and component named.
    """
    stages = Stages(CellKey(strategy.name, task, data.seed, point), registry, journal)
    layer_map = alignment = injection = None
    if strategy.matcher is not None:
        layer_map = stages.run(
            MATCH,
            Kind.MATCHER,
            strategy.matcher,
            lambda matcher: checked_layer_map(matcher.match(pair, probe), pair),
        )
        data.processes.require_same("the layer map", str(layer_map))
        stages.finished(MATCH, str(layer_map))
    given = layer_map or _empty_map(pair)
    if strategy.aligner is not None:
        alignment = stages.run(
            ALIGN,
            Kind.ALIGNER,
            strategy.aligner,
            lambda aligner: checked_alignment(aligner.align(pair, given, probe), pair),
            shown=lambda made: alignment_shapes(made, pair),
        )
        stages.finished(ALIGN, alignment.method)
    if strategy.injector is not None:
        aligned = alignment or Alignment("none", given)
        injection = stages.run(
            INJECT,
            Kind.INJECTOR,
            strategy.injector,
            lambda injector: checked_injection(
                injector.inject(pair.target, aligned, data, journal)
            ),
            shown=lambda done: injection_figures(done, len(journal.changed())),
        )
        stages.finished(INJECT, injection.method)
    return Transferred(layer_map, alignment, injection, stages.seconds)


def _empty_map(pair: ModelPair) -> LayerMap:
    return LayerMap((), pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks, "none")

"""One strategy, from match to inject."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pktkit.budget import Budget
from pktkit.components import Choice, Kind, Strategy
from pktkit.errors import DoesNotFitError, PktkitError, StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.outcomes import CellKey, StageRecord
from pktkit.values import Alignment, Injection, LayerMap

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task
    from pktkit.training import TransferData

T = TypeVar("T")


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
        probe = probe.answered
        asked = [*(rows if budget.labels == "source" else ()), *further]
        wanted = {ids[row] for row in rows} if budget.labels == "gold" else set()
        wanted |= {ids[row] + SUFFIX for row in asked}
        rows = tuple(
            row for row, item in enumerate(probe.encoded("train").items) if item.id in wanted
        )
    if progress is None:
        return TransferData(probe, rows, budget, seed)
    return TransferData(probe, rows, budget, seed, progress)


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


def seeded(registry: Registry, kind: Kind, choice: Choice, seed: int) -> Choice:
    """Fill a component's option `seed` with the run's seed where the recipe leaves it open."""
    fields = {field.name: field.default for field in attrs.fields(_options(registry, kind, choice))}
    if "seed" in fields and choice.options.get("seed") is None:
        return attrs.evolve(choice, options={**choice.options, "seed": seed})
    return choice


def run_transfer(
    strategy: Strategy,
    pair: ModelPair,
    probe: Probe,
    data: TransferData,
    journal: Journal,
    registry: Registry,
    *,
    task: str,
) -> Transferred:
    """Match, align and inject; the journal holds what was changed.

    Raises:
        PktkitError: what a stage raised, with strategy, stage and component named.
    """
    seconds: dict[str, float] = {}
    key = CellKey(strategy.name, task, data.seed)
    layer_map = alignment = injection = None

    def build(kind: Kind, choice: Choice) -> Any:
        return registry.build(kind, seeded(registry, kind, choice, data.seed))

    if strategy.matcher is not None:
        with _stage(strategy, "match", strategy.matcher, seconds):
            layer_map = _returned(
                build(Kind.MATCHER, strategy.matcher).match(pair, probe), LayerMap
            )
        _notify(registry, key, "match", seconds, str(layer_map))
    if strategy.aligner is not None:
        with _stage(strategy, "align", strategy.aligner, seconds):
            alignment = _returned(
                build(Kind.ALIGNER, strategy.aligner).align(
                    pair, layer_map or _empty_map(pair), probe
                ),
                Alignment,
            )
        _notify(registry, key, "align", seconds, alignment.method)
    if strategy.injector is not None:
        given = alignment or Alignment("none", layer_map or _empty_map(pair))
        with _stage(strategy, "inject", strategy.injector, seconds):
            injection = _returned(
                build(Kind.INJECTOR, strategy.injector).inject(pair.target, given, data, journal),
                Injection,
            )
        _notify(registry, key, "inject", seconds, injection.method)
    return Transferred(layer_map, alignment, injection, seconds)


def _returned(value: Any, expected: type[T]) -> T:
    """Check what a plugin returned, at the border where it can still be named."""
    if not isinstance(value, expected):
        raise StrategyError(f"it returned {type(value).__name__}, expected {expected.__name__}.")
    return value


def _options(registry: Registry, kind: Kind, choice: Choice) -> type:
    return registry.options_class(kind, choice.name)


def _empty_map(pair: ModelPair) -> LayerMap:
    return LayerMap((), pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks, "none")


def _notify(
    registry: Registry, key: CellKey, stage: str, seconds: Mapping[str, float], summary: str
) -> None:
    record = StageRecord(key, stage, seconds[stage], summary)
    registry.plugins.notify("pktkit_stage_finished", record=record)


@contextlib.contextmanager
def _stage(
    strategy: Strategy, stage: str, choice: Choice, seconds: dict[str, float]
) -> Iterator[None]:
    """Time a stage, and say where it was when something goes wrong."""
    import torch

    start = time.perf_counter()
    where = f"strategy '{strategy.name}', {stage} ({choice.name})"
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DoesNotFitError(
            f"{where}: out of device memory. Lower --set budget.batch_size, or use --device cpu."
        ) from error
    except PktkitError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        raise StrategyError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        seconds[stage] = time.perf_counter() - start

"""What a comparison will do, decided before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pktkit.budget import EQUAL
from pktkit.components import Choice, Kind, Strategy
from pktkit.discovery.plugins import PluginSelection
from pktkit.errors import UsageError
from pktkit.outcomes import CellKey
from pktkit.points import OWN
from pktkit.settings import EvidenceSettings, ProbeSettings

if TYPE_CHECKING:
    from pktkit.pair import ModelPair
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task


_HIDDEN = "a run on dev does not see them. Score on test with --split test."


@attrs.frozen
class PairSpec:
    """Which models, where and how precise.

    Arguments:
        source, target: directory, GGUF file, hub id, or base and adapter; the source may be a
            directory of `pktkit states write`.
        dtype: see `pktkit.checkpoints.Loading`.
        device: torch device of both.
        source_dtype: instead of `dtype`; empty for the same.
        source_device, target_device: instead of `device`; empty for the same.
        source_quant: `"8bit"` or `"4bit"` for a source that is only read; else `"none"`.
        trust_remote_code: whether modules that lie beside the weights are run.
    """

    source: str
    target: str
    dtype: str = "float32"
    device: str = "cpu"
    source_dtype: str = ""
    source_device: str = ""
    target_device: str = ""
    source_quant: str = "none"
    trust_remote_code: bool = False

    @property
    def devices(self) -> tuple[str, str]:
        """The devices of source and target."""
        return self.source_device or self.device, self.target_device or self.device

    def load(self) -> ModelPair:
        """Load both models.

        Raises:
            PktkitError: a model cannot be loaded, or the two do not go together.
        """
        from pktkit.pair import joined, load_model
        from pktkit.states import holds_states
        from pktkit.states.source import open_source

        source, target = self.devices
        return joined(
            open_source(self.source, device=source)
            if holds_states(self.source)
            else load_model(
                self.source,
                dtype=self.source_dtype or self.dtype,
                device=source,
                quant=self.source_quant,
                trust_remote_code=self.trust_remote_code,
            ),
            load_model(
                self.target,
                dtype=self.dtype,
                device=target,
                trust_remote_code=self.trust_remote_code,
            ),
        )


@attrs.frozen
class Plan:
    """A comparison, complete and picklable.

    Arguments:
        pair: the models.
        strategies: in the order of the table.
        tasks: registered names or files.
        seeds: one transfer each.
        split: where scores are read, `test` or `dev`.
        settings: of the probe.
        selection: which plugins workers load.
        item_limit: items scored per task; None for all.
        template: instead of the tasks' own, see `pktkit.encoding.TEMPLATES`; empty for theirs.
        trace: whether cells carry what plugins did.
        points: of a learning curve, see `pktkit.points`; one comparison each.
        repeats: further runs of every strategy's first seed, which measure noise.
        evidence: how differences are tested.
        equal: what all arms spend alike, of `pktkit.budget.EQUAL`; empty leaves each arm
            the steps of its budget.
        allow_code_execution: whether programs that a model wrote may be run, see
            `pktkit.permission`.
    """

    pair: PairSpec
    strategies: tuple[Strategy, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    split: str = attrs.field(default="test", validator=attrs.validators.in_(("test", "dev")))
    settings: ProbeSettings = attrs.field(factory=ProbeSettings)
    selection: PluginSelection = attrs.field(factory=PluginSelection)
    item_limit: int | None = None
    template: str = ""
    trace: bool = False
    points: tuple[str, ...] = (OWN,)
    repeats: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    evidence: EvidenceSettings = attrs.field(factory=EvidenceSettings)
    equal: str = attrs.field(default="", validator=attrs.validators.in_(("", *EQUAL)))
    allow_code_execution: bool = False

    def strategy(self, name: str) -> Strategy:
        """Return one of the plan's strategies."""
        return next(strategy for strategy in self.strategies if strategy.name == name)

    def cells(self) -> list[CellKey]:
        """Return every unit of work; untouched models are scored once per task.

        Repeats are further cells of the first seed, after all others.
        """
        keys = []
        for task in self.tasks:
            for strategy in self.strategies:
                if strategy.injector is None:
                    keys.append(CellKey(strategy.name, task, self.seeds[0]))
            keys += [
                CellKey(strategy.name, task, seed, point)
                for point in self.points
                for seed in self.seeds
                for strategy in self.strategies
                if strategy.injector is not None
            ]
        first = [key for key in keys if key.seed == self.seeds[0]]
        again = range(1, self.repeats + 1)
        return keys + [attrs.evolve(key, repeat=repeat) for repeat in again for key in first]


def choose_strategies(
    registry: Registry, names: Sequence[str], *, controls: bool
) -> list[Strategy]:
    """Return the named strategies and, unless switched off, every registered control.

    Names ending in `.yaml` are recipe files. The untouched target and the source are always
    there. Every component a strategy names is checked to exist.

    Raises:
        UsageError: an unknown strategy or component, a name given twice, or no name at all.
    """
    from pktkit.recipe import load_recipe

    if not names:
        raise UsageError("--strategies names no strategy.")
    chosen = [
        load_recipe(name) if Path(name).suffix in (".yaml", ".yml") else registry.strategy(name)
        for name in names
    ]
    repeated = {s.name for s in chosen if [c.name for c in chosen].count(s.name) > 1}
    if repeated:
        raise UsageError(f"--strategies names {', '.join(sorted(repeated))} more than once.")
    known = {strategy.name for strategy in chosen}
    for name in registry.names(Kind.STRATEGY):
        strategy = registry.strategy(name)
        wanted = strategy.control if controls else strategy.role in ("target", "source")
        if wanted and strategy.name not in known:
            chosen.append(strategy)
    for strategy in chosen:
        _require_components(registry, strategy)
    return chosen


def own_tasks(registry: Registry) -> list[str]:
    """Return the names of the tasks whose rows come with their package."""
    return sorted(
        {e.component.name for e in registry.entries(Kind.TASK) if not e.component.external}
    )


def choose_task(registry: Registry, name: str) -> Task:
    """Return a task by its registered name or reference, or from a file of rows.

    Raises:
        UsageError: no such task, a file that cannot be read as one, or data that is not there.
    """
    from pktkit.tasks.jsonl import resolve_task

    return resolve_task(name, registry.names(Kind.TASK), registry.task)


def templated(task: Task, template: str) -> Task:
    """Return a task with another template; an empty one leaves it its own."""
    return attrs.evolve(task, template=template) if template else task


def visible(task: Task, split: str) -> Task:
    """Return a task without what a run scored on a split must not see: test, on dev.

    Settings are chosen on dev. What chooses them cannot look at test, since it is not there.
    """
    if split != "dev":
        return task
    kept = {name: task.splits[name] for name in task.splits if name != "test"}
    return attrs.evolve(task, splits=kept, absent={**task.absent, "test": _HIDDEN})


def scored(task: Task, plan: Plan) -> Task:
    """Return a task as the plan scores it: with its template, and only as many items."""
    task = visible(task, plan.split)
    items = task.items(plan.split)[: plan.item_limit]
    task = templated(task, plan.template)
    return attrs.evolve(task, splits={**task.splits, plan.split: items})


def require_runnable(
    registry: Registry,
    task: Task,
    strategies: Sequence[Strategy],
    *,
    split: str,
    allow_code_execution: bool,
) -> None:
    """Require what scoring a task and learning from it need, before anything is loaded.

    Arguments:
        split: where scores are read.
        allow_code_execution: whether programs that a model wrote may be run.

    Raises:
        UsageError: its evaluator or a split is missing, a budget is refused, or there is no
            permission.
    """
    from pktkit.permission import code_execution, require_permission
    from pktkit.transfer import budget_for

    registry.get(Kind.EVALUATOR, task.evaluator.name)
    task.items(split)
    with code_execution(allow_code_execution):
        require_permission(registry, task)
    for strategy in strategies:
        budget_for(task, strategy)
        if strategy.injector is not None:
            task.items("train")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `--seeds`: a count (`3` means 0, 1, 2) or a comma list of seeds (`7,11`).

    Raises:
        UsageError: not a positive count, nor a list of different non-negative integers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UsageError(
            f"--seeds must be a count such as 3 or a list such as 0,1,2, got '{text}'."
        )
    numbers = [int(part) for part in parts]
    if len(numbers) == 1 and "," not in text:
        if numbers[0] < 1:
            raise UsageError("--seeds must be at least 1.")
        return tuple(range(numbers[0]))
    if len(set(numbers)) < len(numbers):
        raise UsageError(f"--seeds names a seed twice: '{text}'.")
    return tuple(numbers)


def _require_components(registry: Registry, strategy: Strategy) -> None:
    stages: Iterable[tuple[Kind, Choice | None]] = (
        (Kind.MATCHER, strategy.matcher),
        (Kind.ALIGNER, strategy.aligner),
        (Kind.INJECTOR, strategy.injector),
    )
    for kind, choice in stages:
        if choice is not None:
            try:
                registry.get(kind, choice.name)
            except UsageError as error:
                raise type(error)(f"strategy '{strategy.name}': {error}") from error

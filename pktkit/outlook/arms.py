"""What one strategy would take: what it changes, holds beside the models, and computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import capabilities_of
from pktkit.errors import PktkitError
from pktkit.outlook.memory import (
    CHUNK,
    Parts,
    largest_phase,
    reading_bytes,
    scoring_bytes,
    training_bytes,
    weight_bytes,
)
from pktkit.outlook.outlines import PairOutline, devices
from pktkit.outlook.verdicts import Verdict, judge, stages
from pktkit.outlook.work import reading_flops, scoring_flops, training_flops
from pktkit.outlook.workload import Workload
from pktkit.points import budget_at
from pktkit.touched import Touched
from pktkit.training.objectives import reads_source
from pktkit.transfer import budget_for

if TYPE_CHECKING:
    from pktkit.budget import Budget
    from pktkit.compare.plan import Plan
    from pktkit.components import Kind, Strategy
    from pktkit.registry import Registry

LATER = "decided at run time"


@attrs.frozen
class Arm:
    """What one strategy would take.

    Arguments:
        strategy: its name.
        verdict: whether it can be used.
        layer_map: in words; `LATER` where weights decide, empty without a matcher.
        touched: what changes of the target; None where its injector does not say, and of an
            untouched model.
        parts: bytes it holds beside the models in its largest phase, by what holds them.
        flops: operations of one cell, all tasks' mean.
    """

    strategy: str
    verdict: Verdict
    layer_map: str
    touched: Touched | None
    parts: Mapping[str, int]
    flops: float

    @property
    def bytes(self) -> int:
        """The sum of `parts`."""
        return sum(self.parts.values())


def arm_of(
    strategy: Strategy,
    plan: Plan,
    pair: PairOutline,
    work: Sequence[Workload],
    registry: Registry,
) -> Arm:
    """Return what a strategy would take on the tasks of a plan.

    Arguments:
        strategy: one of the plan's.
        plan: budgets' points, devices and settings.
        pair: without weights.
        work: of each task.
        registry: of its components.
    """
    prospect = pair.prospect
    verdict = judge(strategy, prospect, registry)
    built = _built(strategy, registry)
    touched = _touched(built, pair)
    each = [_on_task(strategy, plan, pair, one, built, touched) for one in work]
    return Arm(
        strategy.name,
        verdict,
        _layer_map(built, pair) if strategy.matcher is not None else "",
        touched,
        max((parts for parts, _ in each), key=lambda parts: sum(parts.values())),
        sum(flops for _, flops in each) / len(each),
    )


def _on_task(
    strategy: Strategy,
    plan: Plan,
    pair: PairOutline,
    work: Workload,
    built: Mapping[Kind, Any],
    touched: Touched | None,
) -> tuple[Parts, int]:
    """Return what an arm holds beside the models, and its operations, on one task."""
    source, target = pair.prospect.pair.source, pair.prospect.pair.target
    model = source if strategy.role == "source" else target
    gpu = not devices(plan.pair)[1].startswith("cpu")
    scoring = {"scoring": scoring_bytes(model, work, accelerator=gpu)}
    largest = max(p.numel() * p.element_size() for p in source.model.parameters())
    begin = {"hashing": min(CHUNK, largest), "checkpoint files": _file_bytes(pair)}
    flops = scoring_flops(model, work)
    if strategy.injector is None:
        return largest_phase([begin, scoring]), flops
    budget = _largest_budget(plan, strategy, work)
    states, kl = bool(touched and touched.states), _reads_logits(built)
    readings = reading_bytes(source, work, plan.settings, states=states, kl=kl)
    # freed by then, but readings stay mapped and the allocator keeps the rest for the process
    copies = _copies(built, source, target)
    kept = {name: size for name, size in readings.items() if name == "readings"} | copies
    training = training_bytes(
        target,
        touched or Touched.whole(target),
        budget,
        work.micro_batch(budget),
        kl=kl,
        device=devices(plan.pair)[1],
    )
    journal = {"journal": weight_bytes(target)} if touched and touched.adapter_used else {}
    flops += training_flops(target, touched, budget, work)
    if states or kl:
        flops += reading_flops(source, work, kl=kl)
    rest = {**kept, **journal, **_journal(training)}
    return largest_phase([begin, readings, {**kept, **training}, {**scoring, **rest}]), flops


def _file_bytes(pair: PairOutline) -> int:
    """Return what is mapped of the larger checkpoint that is converted while it is loaded.

    Weights that are stored as they are used are mapped and not copied.
    """
    found = (pair.source, pair.target)
    wanted = [str(each.model.dtype).removeprefix("torch.") for each in found]
    return max(
        each.stored.bytes if each.stored.dtype != dtype else 0
        for each, dtype in zip(found, wanted, strict=True)
    )


def _journal(training: Parts) -> Parts:
    return {"journal": training["journal"]} if training["journal"] else {}


def _copies(built: Mapping[Kind, Any], source: Any, target: Any) -> Parts:
    """Return what components say they hold of either model's weights, in float32."""
    found: Parts = {}
    for component in built.values():
        promised = capabilities_of(component)
        for name, model, copies in (
            ("copies of the source", source, promised.source_copies),
            ("copies of the target", target, promised.target_copies),
        ):
            if copies:
                numbers = sum(p.numel() for p in model.model.parameters())
                found[name] = max(found.get(name, 0), int(4 * copies * numbers))
    return found


def _largest_budget(plan: Plan, strategy: Strategy, work: Workload) -> Budget:
    budget = budget_for(work.task, strategy)
    return max((budget_at(budget, point) for point in plan.points), key=lambda b: b.steps)


def _built(strategy: Strategy, registry: Registry) -> dict[Kind, Any]:
    """Return the components that can be built."""
    found = {}
    for kind, choice in stages(strategy):
        try:
            found[kind] = registry.build(kind, choice)
        except PktkitError:
            continue  # the verdict says why
    return found


def _touched(built: Mapping[Any, Any], pair: PairOutline) -> Touched | None:
    injector, aligner = built.get("injector"), built.get("aligner")
    ask = getattr(injector, "touches", None)
    if ask is None:
        return None
    found: Touched = ask(pair.prospect.pair.target, aligner)
    return found


def _layer_map(built: Mapping[Any, Any], pair: PairOutline) -> str:
    matcher = built.get("matcher")
    if matcher is None or not capabilities_of(matcher).reads_depths:
        return LATER
    try:
        return str(matcher.match(pair.prospect.pair, None))
    except PktkitError:
        return "none, see the verdict"


def _reads_logits(built: Mapping[Any, Any]) -> bool:
    options = getattr(built.get("injector"), "options", None)
    return reads_source(getattr(options, "output", ""))

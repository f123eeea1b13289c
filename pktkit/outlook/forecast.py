"""What a comparison would take: memory, disk and time, and whether there is room for it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import capabilities_of
from pktkit.compare.plan import choose_task, scored
from pktkit.compare.workers import default_jobs
from pktkit.errors import PktkitError
from pktkit.memory import LOWER
from pktkit.outlook.memory import (
    CHUNK,
    CONTEXT,
    PROCESS,
    Parts,
    largest_phase,
    reading_bytes,
    scoring_bytes,
    training_bytes,
    weight_bytes,
)
from pktkit.outlook.outlines import PairOutline, outline_pair
from pktkit.outlook.room import free_device, free_disk, matmul_rate
from pktkit.outlook.verdicts import Verdict, judge, stages
from pktkit.outlook.work import EFFICIENCY, reading_flops, scoring_flops, training_flops
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
SPREAD = "spread"


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


@attrs.frozen
class Forecast:
    """What a comparison would take.

    Arguments:
        arms: one per strategy.
        held: bytes one process holds throughout, by device and what holds them.
        jobs: processes at once.
        peak: bytes by device, all processes together.
        disk: bytes written, by what.
        flops: operations of all cells.
        hits: readings of these rows in the cache; None without `--cache`.
        target_device: where arms work.
    """

    arms: tuple[Arm, ...]
    held: Mapping[str, Parts]
    jobs: int
    peak: Mapping[str, int]
    disk: Mapping[str, int]
    flops: float
    hits: tuple[int, int] | None
    target_device: str

    def shortages(self, cache: Path | None, out: Path) -> list[str]:
        """Return what does not fit this machine, a sentence each with what to lower."""
        found = []
        for device, needed in self.peak.items():
            left = free_device(device)
            if left is not None and needed > left:
                found.append(f"{device}: {gib(needed)} needed, {gib(left)} free. {LOWER}")
        for what, place in (("readings", _readings_at(cache)), ("run directory", out)):
            left = free_disk(place)
            if self.disk[what] > left:
                found.append(
                    f"disk: {what} {gib(self.disk[what])}, {gib(left)} free at {place}. Use "
                    "--cache or --out on a larger disk, or --state-dtype bfloat16."
                )
        return found

    def seconds(self, dtype: str) -> tuple[float, float]:
        """Return a rough time for all cells, and the measured rate it is based on."""
        rate = matmul_rate(self.target_device, dtype)
        return self.flops / (rate * EFFICIENCY), rate


def gib(size: float) -> str:
    """Write bytes in GiB, small ones in MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def forecast(
    plan: Plan, registry: Registry, *, jobs: int | None = None, cache: Path | None = None
) -> Forecast:
    """Estimate what a plan would take, from configurations, tokenizers and rows.

    Arguments:
        jobs: worker processes; 0 for this one, None as `compare` chooses.
        cache: directory of readings.

    Raises:
        PktkitError: a model cannot be described, a task has no rows, or the two do not fit.
    """
    pair = outline_pair(plan.pair)
    target = pair.prospect.pair.target
    tasks = [scored(choose_task(registry, name), plan) for name in plan.tasks]
    work = [Workload.of(task, plan, target) for task in tasks]
    arms = tuple(_arm(strategy, plan, pair, work, registry) for strategy in plan.strategies)
    source_device, target_device = _devices(plan)
    held = _held(plan, pair, source_device, target_device)
    workers = _workers(plan, pair, jobs)
    peak = _peak(held, arms, workers, target_device)
    cells = Counter(key.strategy for key in plan.cells())
    return Forecast(
        arms,
        held,
        workers,
        peak,
        _disk(plan, pair, work, arms),
        sum(cells[arm.strategy] * arm.flops for arm in arms),
        None if cache is None else cache_hits(cache, [each.fingerprint for each in work]),
        target_device,
    )


def cache_hits(cache: Path, fingerprints: Sequence[str]) -> tuple[int, int]:
    """Count the readings of rows in a cache, and their bytes, by what their manifests say.

    Whether they are of these weights shows when those are loaded.
    """
    count = size = 0
    for file in sorted(cache.glob("**/manifest.json")):
        try:
            text = file.read_text(encoding="utf-8")
            shards = json.loads(text).get("shards", {})
        except (OSError, ValueError, AttributeError):
            continue
        if any(fingerprint and fingerprint in text for fingerprint in fingerprints):
            count += 1
            size += sum(int(shard.get("bytes", 0)) for shard in shards.values())
    return count, size


def _arm(
    strategy: Strategy,
    plan: Plan,
    pair: PairOutline,
    work: Sequence[Workload],
    registry: Registry,
) -> Arm:
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
    gpu = not _devices(plan)[1].startswith("cpu")
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
        device=_devices(plan)[1],
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


def _devices(plan: Plan) -> tuple[str, str]:
    source, target = plan.pair.devices
    return ("cpu" if source == SPREAD else source), target


def _held(
    plan: Plan, pair: PairOutline, source_device: str, target_device: str
) -> dict[str, Parts]:
    """Return what a process holds throughout, by device."""
    held: dict[str, Parts] = {"cpu": {"process": PROCESS}}
    for device in dict.fromkeys((source_device, target_device)):
        if not device.startswith("cpu"):
            held[device] = {"process": CONTEXT}
    models = pair.prospect.pair
    source = weight_bytes(models.source, plan.pair.source_quant)
    if pair.prospect.source_written:  # final norm and LM head alone
        head = models.source.anatomy.head_weight
        source = head.numel() * head.element_size()
    held.setdefault(_host(source_device), {})["source"] = source
    held.setdefault(_host(target_device), {})["target"] = weight_bytes(models.target)
    return held


def _host(device: str) -> str:
    return "cpu" if device.startswith("cpu") else device


def _workers(plan: Plan, pair: PairOutline, jobs: int | None) -> int:
    if jobs is None:
        stored = sum(found.stored.bytes or 1 << 40 for found in (pair.source, pair.target))
        jobs = default_jobs(len(plan.cells()), devices=_devices(plan), checkpoint_bytes=stored)
    return max(1, jobs)


def _peak(
    held: Mapping[str, Parts], arms: Sequence[Arm], workers: int, target_device: str
) -> dict[str, int]:
    peak = {device: sum(parts.values()) for device, parts in held.items()}
    peak[_host(target_device)] += max(arm.bytes for arm in arms)
    return {device: size * workers for device, size in peak.items()}


def _disk(
    plan: Plan, pair: PairOutline, work: Sequence[Workload], arms: Sequence[Arm]
) -> dict[str, int]:
    """Return the bytes of readings, of the run directory, and of a target if one is saved."""
    source, states = pair.prospect.pair.source, any(a.touched and a.touched.states for a in arms)
    readings = 0
    for each in work:
        parts = reading_bytes(source, each, plan.settings, states=states, kl=states)
        readings += parts.get("readings", 0)
    copied = max((a.parts.get("copies of the source", 0) for a in arms), default=0)
    scores = sum(len(each.scored) for each in work) * len(plan.cells()) // len(work)
    return {
        "readings": readings + copied // 2,
        "run directory": _RECORD * scores,
        "a saved target": weight_bytes(pair.prospect.pair.target),
    }


_RECORD = 400
"""Bytes of one item's score in a run directory, the answer included (rough)."""


def _readings_at(cache: Path | None) -> Path:
    return cache if cache is not None else Path(tempfile.gettempdir())

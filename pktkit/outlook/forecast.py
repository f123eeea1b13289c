"""What a comparison would take: memory, disk and time, and whether there is room for it."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pktkit.compare.plan import choose_task, scored
from pktkit.compare.workers import default_jobs
from pktkit.memory import LOWER
from pktkit.outlook.arms import Arm, arm_of
from pktkit.outlook.memory import CONTEXT, PROCESS, Parts, reading_bytes, weight_bytes
from pktkit.outlook.outlines import PairOutline, devices, outline_pair
from pktkit.outlook.room import free_device, free_disk, matmul_rate
from pktkit.outlook.work import EFFICIENCY
from pktkit.outlook.workload import Workload

if TYPE_CHECKING:
    from pktkit.compare.plan import Plan
    from pktkit.registry import Registry


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
    arms = tuple(arm_of(strategy, plan, pair, work, registry) for strategy in plan.strategies)
    source_device, target_device = devices(plan.pair)
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
        jobs = default_jobs(len(plan.cells()), devices=devices(plan.pair), checkpoint_bytes=stored)
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

"""What the layer matchers choose on the embedded pair, and how often affinity is right.

The right answer is known where the target is the source without some of its blocks: a block that
was kept belongs to itself.

Run: python benchmarks/layer_matching.py
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import attrs
import structlog

from pktkit.components import Kind
from pktkit.discovery.plugins import PluginSelection, load_plugins
from pktkit.families import Anatomy
from pktkit.pair import LoadedModel, ModelPair, load_model
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.tasks.base import Task
from pktkit.values import Interface
from pktkit.zoo import pair_paths
from pktkit_latent.matchers import (
    AffinityMatcher,
    AffinityOptions,
    AttributionMatcher,
    AttributionOptions,
    DepthMatcher,
    DepthOptions,
    FisherMatcher,
    FisherOptions,
)
from pktkit_latent.matchers.affinity import MEASURES

REMOVED = 2
PRUNED_TASKS = ("arith", "compose")


def matchers() -> Mapping[str, Any]:
    """Return depth, and affinity under every setting, by a name for the table."""
    found: dict[str, Any] = {"depth": DepthMatcher(DepthOptions())}
    for measure, interface, strict in itertools.product(MEASURES, Interface, (False, True)):
        options = AffinityOptions(measure=measure, interface=interface, strict=strict)
        name = f"affinity {measure} {interface}{' strict' if strict else ''}"
        found[name] = AffinityMatcher(options)
    return found


def without(source: LoadedModel, removed: tuple[int, ...]) -> tuple[LoadedModel, list[int]]:
    """Return a copy of a Llama-like model without some blocks, and the blocks it kept."""
    model: Any = copy.deepcopy(source.model)
    kept = [block for block in range(source.anatomy.n_blocks) if block not in removed]
    layers = model.model.layers
    model.model.layers = type(layers)([layers[block] for block in kept])
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = len(kept)
    return attrs.evolve(source, model=model, anatomy=Anatomy.of(model)), kept


def print_choices(pair: ModelPair, tasks: Mapping[str, Task]) -> None:
    """Print what attribution, Fisher and affinity choose on each task."""
    for name, task in tasks.items():
        probe = Probe(pair, task)
        print(f"\n{name}: mean source loss {float(probe.source_loss().mean()):.4f}")
        chosen = AttributionMatcher(AttributionOptions(fallback="none")).match(pair, probe)
        stability = chosen.diagnostics["stability"]
        print(f"  {chosen}; wins of blocks 0..: {stability['wins']}")
        print(f"  {FisherMatcher(FisherOptions()).match(pair, probe)}")
        for strict in (False, True):
            found = AffinityMatcher(AffinityOptions(strict=strict)).match(pair, probe)
            print(f"  {found}{' (strict)' if strict else ''}; {found.note}")


def print_recovered(source: LoadedModel, tasks: Mapping[str, Task]) -> None:
    """Print how many kept blocks each matcher pairs with themselves."""
    print(f"\nkept blocks paired with themselves, all ways to remove {REMOVED} blocks")
    hits = {name: dict.fromkeys(tasks, 0) for name in matchers()}
    total = 0
    for removed in itertools.combinations(range(source.anatomy.n_blocks), REMOVED):
        target, kept = without(source, removed)
        total += len(kept)
        pair = ModelPair(source, target)
        for task_name, task in tasks.items():
            probe = Probe(pair, task)
            for name, matcher in matchers().items():
                sources = [link.sources[0] for link in matcher.match(pair, probe).links]
                hits[name][task_name] += sum(map(int.__eq__, sources, kept))
    for name, by_task in hits.items():
        figures = "  ".join(f"{task} {right}" for task, right in by_task.items())
        print(f"  {name:<44} of {total}: {figures}")


def main() -> None:
    """Print both tables."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    registry = Registry(load_plugins(PluginSelection.from_user(None)))
    tasks = {name: registry.task(name) for name in registry.names(Kind.TASK)}
    source, target = (load_model(str(path)) for path in pair_paths())
    print_choices(ModelPair(source, target), tasks)
    print_recovered(source, {name: tasks[name] for name in PRUNED_TASKS})


if __name__ == "__main__":
    main()

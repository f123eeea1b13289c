"""Tiny pairs, tasks and transfers, for tests of strategies that change parameters."""

from __future__ import annotations

from typing import Any

import torch

from pktkit.budget import Budget
from pktkit.components import Choice
from pktkit.pair import LoadedModel, ModelPair
from pktkit.probe import Probe
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import tiny_loaded
from pktkit.training import TransferData
from pktkit.values import LayerLink, LayerMap

SOURCE = {"width": 48, "blocks": 4, "heads": 6, "kv_heads": 3, "ffn": 72}
TARGET = {"width": 32, "blocks": 3, "heads": 4, "kv_heads": 2, "ffn": 48}


def pair_of(family: str, target_family: str | None = None, **options: Any) -> ModelPair:
    """Build a tiny pair; options named `source` and `target` override sizes."""
    source = tiny_loaded(family, seed=1, **(SOURCE | options.get("source", {})))
    target = tiny_loaded(target_family or family, seed=2, **(TARGET | options.get("target", {})))
    source.model.requires_grad_(False)
    return ModelPair(source, target)


def word_task(rows: int = 6) -> Task:
    """Build a task of tiny sentences over the tiny tokenizer."""
    items = tuple(
        Item(f"i{i}", f"t{i} t{i + 7} t{(3 * i) % 40}", f"t{(5 * i + 1) % 50} t{i + 2}")
        for i in range(rows)
    )
    return Task(
        name="words",
        splits=dict.fromkeys(("train", "align", "extract", "dev", "test"), items),
        evaluator=Choice("exact-match"),
        card=TaskCard(summary="", metric="", splitting=""),
    )


def data_for(probe: Probe, **budget: Any) -> TransferData:
    """Open all training rows for a short run."""
    fields = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2} | budget
    rows = tuple(range(len(probe.encoded("train").items)))
    return TransferData(probe=probe, rows=rows, budget=Budget(**fields), seed=5)


def layer_map(pair: ModelPair, *sources: int) -> LayerMap:
    """Link target block i to the i-th given source block."""
    return LayerMap(
        links=[LayerLink(target, (source,)) for target, source in enumerate(sources)],
        source_blocks=pair.source.anatomy.n_blocks,
        target_blocks=pair.target.anatomy.n_blocks,
        method="given",
    )


def logits(model: LoadedModel | Any) -> torch.Tensor:
    """Run a model on fixed tokens."""
    called = getattr(model, "model", model)
    ids = torch.arange(3, 35).reshape(2, 16)
    with torch.no_grad():
        return called(input_ids=ids, use_cache=False).logits


def snapshot(model: LoadedModel) -> dict[str, torch.Tensor]:
    """Copy all parameters."""
    return {name: p.detach().clone() for name, p in model.model.named_parameters()}


def same_bits(model: LoadedModel, before: dict[str, torch.Tensor]) -> bool:
    """Whether all parameters have the bits they had."""
    now = dict(model.model.named_parameters())
    return now.keys() == before.keys() and all(
        torch.equal(_bits(now[name]), _bits(value)) for name, value in before.items()
    )


def tree(model: LoadedModel) -> dict[str, tuple[Any, ...]]:
    """Describe the module tree: types, attributes, hooks and modes."""
    return {
        name: (
            type(module),
            tuple(sorted(module.__dict__)),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            module.training,
        )
        for name, module in model.model.named_modules()
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().view(torch.uint8)

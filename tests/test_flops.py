"""Operations counted by formula: against torch's own counter, and as laws of the meter."""

from __future__ import annotations

import attrs
import pytest
import torch
from tiny_transfers import data_for, pair_of, word_task
from torch.utils.flop_counter import FlopCounterMode

from pktkit.activations.recording import forward, record
from pktkit.encoding import collate, padding_id
from pktkit.flops import ForwardCost
from pktkit.inference.generation import generate
from pktkit.journal import Journal
from pktkit.meter import SOURCE, TARGET, Meter, report
from pktkit.probe import Probe, ReadingCache
from pktkit.testing import FAMILIES
from pktkit.training import train
from pktkit.training.adapters import LoraShape
from pktkit.training.capacity import trainable
from pktkit.training.objectives import OUTPUT_TERMS, OutputObjective
from pktkit.values import Origin

CLOSE = 0.02
"""Torch's counter also sees rotary angles; nothing else may differ."""


def opened(family="llama"):
    pair = pair_of(family)
    for model in (pair.source, pair.target):
        model.model.set_attn_implementation("eager")  # the fused kernel is not counted on the CPU
    return Probe(pair, word_task())


def counted(pair, call):
    """Return what torch counts and what the meter counts of one call."""
    with (
        FlopCounterMode(display=False) as torchs,
        Meter(pair.source, pair.target).counting() as own,
    ):
        call()
    return torchs.get_total_flops(), own


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forward_pass_costs_what_the_formula_says(family) -> None:
    probe = opened(family)
    source, split = probe.pair.source, probe.encoded("train")
    same = [
        i
        for i, item in enumerate(split.items)
        if len(item.input_ids) == len(split.items[0].input_ids)
    ]
    batch = collate(split, same, pad_id=padding_id(source.tokenizer), device="cpu")

    def call():
        with torch.no_grad(), record(source.anatomy, (), batch):
            forward(source.model, batch)

    torchs, own = counted(probe.pair, call)
    assert own.flops(SOURCE) == pytest.approx(torchs, rel=CLOSE)
    assert own.flops(TARGET) == 0
    cost = ForwardCost.of(source.anatomy)
    lengths = [len(split.items[row].input_ids) for row in same]
    formula = cost.blocks_flops(lengths) + cost.head_flops(len(batch.gold))
    assert formula == own.flops(SOURCE)


def trained(probe, journal, *, shape, blocks=None, **budget):
    data = data_for(probe, **budget)
    target = probe.pair.target
    objective = OutputObjective(OUTPUT_TERMS["cross-entropy"](probe))
    with trainable(target, journal, seed=0, shape=shape, blocks=blocks) as it:
        train(target, it.parameters, data, objective, model=it.model)


@pytest.mark.parametrize("shape", [None, LoraShape(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("family", "checkpointing"),
    [("llama", False), ("llama", True), ("gemma2", False), ("gpt2", True), ("gpt_neox", False)],
)
def test_training_costs_what_torch_counts(family, shape, checkpointing) -> None:
    probe = opened(family)
    journal = Journal(probe.pair.target)
    torchs, own = counted(
        probe.pair,
        lambda: trained(probe, journal, shape=shape, steps=1, checkpointing=checkpointing),
    )
    assert own.total == own.flops(TARGET) == own.trained
    # merging the adapter once (`B A`) is outside of training and of the meter
    merged = 0
    if shape is not None:
        cost = ForwardCost.of(probe.pair.target.anatomy)
        merged = 2 * shape.rank * cost.block_weights * cost.blocks
    assert own.total == pytest.approx(torchs - merged, rel=CLOSE)


def test_what_is_frozen_costs_less() -> None:
    """Full training is three forward passes; frozen blocks below and frozen weights spare some."""
    probe = opened()

    def cost(**options):
        journal = Journal(probe.pair.target)
        _, own = counted(probe.pair, lambda: trained(probe, journal, steps=1, **options))
        journal.rollback()
        return own.total

    full, last = cost(shape=None), cost(shape=None, blocks=[2])
    recomputed = cost(shape=None, checkpointing=True)
    forward_only = full / 3
    assert forward_only < last < 0.75 * full
    assert cost(shape=LoraShape(rank=1)) == pytest.approx(2 * forward_only, rel=0.2)
    assert recomputed == pytest.approx(4 * forward_only, rel=0.1)


def test_generation_looks_back_at_the_keys_it_kept() -> None:
    probe = opened()
    prompts = [item.prompt for item in probe.task.items("train")[:3]]
    torchs, own = counted(
        probe.pair, lambda: generate(probe.pair.source, prompts, max_new_tokens=6)
    )
    assert own.flops(SOURCE) == pytest.approx(torchs, rel=CLOSE)


def test_a_gradient_pass_of_the_source_counts_for_the_source(tmp_path) -> None:
    probe = opened()
    torchs, own = counted(probe.pair, lambda: probe.attribution("extract"))
    assert own.readings[SOURCE] == pytest.approx(torchs, rel=CLOSE)
    assert own.passes == {SOURCE: 0, TARGET: 0}


def readings(probe):
    with Meter(probe.pair.source, probe.pair.target).counting() as meter:
        probe.states("train", [0, 2]).read([0, 1, 2])
        probe.states("train", [1]).read([2, 3])
        probe.logits("train").read([0, 3])
        probe.states("train", [1], origin=Origin.TARGET).read([5])
        probe.sensitivities("extract")
        probe.sensitivities("extract")
        probe.attribution("extract")
    return meter.readings


def test_readings_cost_the_same_from_wherever_they_come(tmp_path) -> None:
    """Once per row and arm: computed, from memory, from disk, or live because nothing is kept."""
    pair = opened().pair
    first = Probe(pair, word_task(), cache=ReadingCache(tmp_path))
    found = [readings(first), readings(first)]
    found.append(readings(Probe(pair, word_task(), cache=ReadingCache(tmp_path))))
    live = attrs.evolve(first.settings, max_bytes=0)
    found.append(readings(Probe(pair, word_task(), settings=live)))
    assert all(one == found[0] for one in found)
    split, cost = first.encoded("train"), ForwardCost.of(pair.target.anatomy)
    assert found[0][TARGET] == cost.blocks_flops([len(split.items[5].input_ids)])
    rows = [split.items[row] for row in range(4)]
    source = ForwardCost.of(pair.source.anatomy)
    blocks = source.blocks_flops([len(item.input_ids) for item in rows])
    heads = source.head_flops(rows[0].supervised_count + rows[3].supervised_count)
    with Meter(pair.source, pair.target).counting() as others:
        first.sensitivities("extract")
        first.attribution("extract")
    assert found[0][SOURCE] == blocks + heads + others.readings[SOURCE]


def test_a_component_can_report_what_no_module_shows() -> None:
    report(7)  # without a meter nothing happens
    with Meter(None, None).counting() as outer:
        report(5)
        with Meter(None, None).counting() as inner:
            report(2, SOURCE)
        torch.nn.Linear(3, 4)(torch.ones(2, 3))
    assert (outer.total, inner.flops(SOURCE)) == (5 + 2 * 2 * 3 * 4, 2)

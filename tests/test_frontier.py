"""The frontier: one block after another, and nothing else moves."""

from __future__ import annotations

import itertools

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_transfers import data_for, pair_of, same_bits, snapshot, word_task

from pktkit.activations.recording import forward, record
from pktkit.encoding import collate
from pktkit.errors import StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.testing import tiny_loaded
from pktkit_latent.aligners import SemanticAligner, SemanticOptions
from pktkit_latent.injectors import FrontierInjector, FrontierOptions
from pktkit_latent.matchers import DepthMatcher, DepthOptions
from pktkit_latent.schedules import Frontier

PAIRS = {
    "llama": {},
    "qwen2": {"target": {"tied": True}},
    "gemma": {"target": {"head_dim": 12}},
    "gpt_neox": {},
}


def opened(family: str = "llama"):
    pair = pair_of(family, **PAIRS[family])
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    return pair, probe, SemanticAligner(SemanticOptions()).align(pair, chosen, probe)


def moved_by_stage(pair, probe, alignment, *, stages: int, options: FrontierOptions, **budget):
    """Run two steps per stage and return the names of parameters that moved in each.

    Under an adapter, whose random start is not seen, the very first step is left out.
    """
    model = pair.target.model
    seen = [dict(snapshot(pair.target))]
    data = attrs.evolve(
        data_for(probe, steps=2 * stages, weight_decay=0.1, **budget),
        progress=lambda *_: seen.append(dict(snapshot(pair.target))),
    )
    with Journal(pair.target) as journal:
        done = FrontierInjector(options).inject(pair.target, alignment, data, journal)
    assert dict(model.named_parameters()).keys() == seen[0].keys()
    moved = [set() for _ in range(stages)]
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        if before.keys() == after.keys():
            moved[step // 2] |= {n for n, value in before.items() if not same(value, after[n])}
    return done, moved


def same(value: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(value.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("family", PAIRS)
def test_full_only_the_block_at_the_frontier_moves(family):
    """With weight decay and momentum: what is beyond or behind the frontier keeps its bits."""
    pair, probe, alignment = opened(family)
    options = FrontierOptions(train="full")
    done, moved = moved_by_stage(pair, probe, alignment, stages=3, options=options)
    for block, names in enumerate(moved):
        assert names, f"block {block} did not move"
        assert names <= set(pair.target.anatomy.block_parameters(block))
    assert done.diagnostics["blocks"] == [0, 1, 2]
    assert done.trainable_parameters == sum(
        pair.target.model.get_parameter(name).numel()
        for block in range(3)
        for name in pair.target.anatomy.block_parameters(block)
    )


@pytest.mark.parametrize("family", PAIRS)
def test_lora_only_the_adapter_at_the_frontier_moves(family):
    pair, probe, alignment = opened(family)
    before = snapshot(pair.target)
    kinds = ("up", "down", "v", "o")
    options = FrontierOptions(rank=2, modules=kinds)
    _, moved = moved_by_stage(pair, probe, alignment, stages=3, options=options)
    for block, names in enumerate(moved):
        inside = [pair.target.anatomy.projections(block)[kind].module for kind in kinds]
        adapters = {name for name in names if "lora_" in name}
        assert adapters == names and adapters
        assert all(any(module in name for module in inside) for name in adapters), (block, names)
    assert not same_bits(pair.target, before), "the adapter was not merged"


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_stage_also_trains_what_no_block_reads(tied):
    pair = pair_of("llama", target={"tied": tied})
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    options = FrontierOptions(train="full", output_stage="last", layer_term="relation")
    done, moved = moved_by_stage(pair, probe, alignment, stages=3, options=options)
    anatomy = pair.target.anatomy
    assert not any(name.startswith(("model.norm", "lm_head")) for m in moved[:2] for name in m)
    beside = moved[2] - set(anatomy.block_parameters(2))
    assert beside == {"model.norm.weight"} | (set() if tied else {"lm_head.weight"})
    assert done.losses["kl"][:4] == [0.0] * 4 and all(v > 0 for v in done.losses["kl"][4:])
    assert all(v > 0 for v in done.losses["layer"])


def test_the_layer_term_of_a_stage_is_that_of_its_block():
    """The first loss of a stage is the distance of that block alone, computed by hand."""
    pair, probe, alignment = opened()
    states = alignment.target_states
    losses = []
    data = data_for(probe, steps=3, batch_size=6, learning_rate=1e-30)
    options = FrontierOptions(layer_term="cosine", output_weight=0.0, train="full")
    with Journal(pair.target) as journal:
        data = attrs.evolve(data, progress=lambda step, steps, loss: losses.append(loss))
        FrontierInjector(options).inject(pair.target, alignment, data, journal)
    batch = collate(probe.encoded("train"), range(6), pad_id=0, device="cpu")
    with torch.no_grad(), record(pair.target.anatomy, range(3), batch) as recording:
        forward(pair.target.model, batch)
    reader = probe.states("train", states.origin_blocks, interface=states.interface)
    origin = reader.read(range(6))
    for block, loss in enumerate(losses):
        ours = recording.states(block, states.interface)
        cosines = torch.nn.functional.cosine_similarity(ours, states.states(block, origin))
        assert loss == pytest.approx(1 - cosines.mean().item(), abs=1e-5)


def test_some_blocks_only():
    pair, probe, alignment = opened()
    options = FrontierOptions(train="full", blocks=(0, 2))
    done, moved = moved_by_stage(pair, probe, alignment, stages=2, options=options)
    anatomy = pair.target.anatomy
    assert moved[0] <= set(anatomy.block_parameters(0))
    assert moved[1] <= set(anatomy.block_parameters(2)) and all(moved)
    assert done.diagnostics["blocks"] == [0, 2]


def test_bf16_weights():
    pair = pair_of("llama")
    pair.source.model.bfloat16()
    pair.target.model.bfloat16()
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    options = FrontierOptions(train="full")
    done, moved = moved_by_stage(pair, probe, alignment, stages=3, options=options)
    assert all(moved) and all(v == v for values in done.losses.values() for v in values)


def test_a_pair_of_two_families():
    """A pair of families: GQA source, wide gemma heads in the target."""
    source = tiny_loaded("llama", seed=1, width=48, blocks=4, heads=6, kv_heads=3)
    target = tiny_loaded("gemma3_text", seed=2, blocks=2)
    source.model.requires_grad_(False)
    pair = ModelPair(source, target)
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    _, moved = moved_by_stage(pair, probe, alignment, stages=2, options=FrontierOptions(rank=2))
    assert all(moved)


@given(blocks=st.integers(1, 9), rounds=st.integers(1, 7))
def test_stages_are_equal_and_in_order(blocks, rounds):
    steps = blocks * rounds
    focus = Frontier(range(blocks))
    visited = [focus.at(step / steps)[0] for step in range(steps)]
    assert visited == [block for block in range(blocks) for _ in range(rounds)]
    assert all(focus.within(s / steps) == pytest.approx(s % rounds / rounds) for s in range(steps))


@given(blocks=st.integers(1, 9), steps=st.integers(1, 60))
def test_no_stage_is_empty_and_lengths_differ_by_one(blocks, steps):
    steps = max(steps, blocks)
    focus = Frontier(range(blocks))
    visited = [focus.at(step / steps)[0] for step in range(steps)]
    lengths = [visited.count(block) for block in range(blocks)]
    assert visited == sorted(visited) and max(lengths) - min(lengths) <= 1 and min(lengths) >= 1


def test_fewer_steps_than_blocks_are_refused_with_figures():
    pair, probe, alignment = opened()
    with pytest.raises(StrategyError, match=r"3 blocks.*has 2"), Journal(pair.target) as journal:
        FrontierInjector(FrontierOptions()).inject(
            pair.target, alignment, data_for(probe, steps=2), journal
        )


def test_stages_without_any_loss_are_refused():
    with pytest.raises(UsageError, match="some stages have no loss"):
        FrontierOptions(output_stage="last", layer_until=0.5)

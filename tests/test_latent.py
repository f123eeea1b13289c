"""The steering injectors and their placebos on tiny models of several families."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_transfers import data_for, layer_map, pair_of, same_bits, snapshot, word_task

from pktkit.errors import StrategyError
from pktkit.journal import Journal
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.tasks.base import SPLITS
from pktkit.testing import tiny_loaded
from pktkit.values import Alignment, Interface, Origin
from pktkit_controls.injectors import FineTuneInjector, FineTuneOptions
from pktkit_latent.aligners import SelfAnchor, SelfOptions, SemanticAligner, SemanticOptions
from pktkit_latent.distances import centred_cosine_distance
from pktkit_latent.injectors import (
    AllBlocksInjector,
    AllBlocksOptions,
    OneBlockInjector,
    OneBlockOptions,
)
from pktkit_latent.matchers import (
    AttributionMatcher,
    AttributionOptions,
    DepthMatcher,
    DepthOptions,
)
from pktkit_latent.wanted import item_permutation, others

FAMILIES = ["llama", "qwen2", "gemma", "gpt2", "gpt_neox"]


def aligned(pair, probe, **options) -> Alignment:
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    return SemanticAligner(SemanticOptions(**options)).align(pair, chosen, probe)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("capacity", ["full", "lora"])
def test_all_blocks_lowers_the_layer_term_and_leaves_the_source(family, capacity):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    source, target = snapshot(pair.source), snapshot(pair.target)
    injector = AllBlocksInjector(AllBlocksOptions(train=capacity, rank=4, alpha=4))
    with Journal(pair.target) as journal:
        done = injector.inject(
            pair.target,
            aligned(pair, probe, interface=Interface.RESIDUAL),
            data_for(probe, steps=20, batch_size=6, learning_rate=3e-3),
            journal,
        )
        assert journal.changed()
        assert done.losses["layer"][-1] < done.losses["layer"][0]
        assert done.steps == 20 and done.tokens > 0 and done.trainable_parameters > 0
        journal.rollback()
    assert same_bits(pair.source, source)
    assert same_bits(pair.target, target)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_block_moves_that_block_only(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    chosen = AttributionMatcher(AttributionOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    with Journal(pair.target) as journal:
        OneBlockInjector(OneBlockOptions(rank=4)).inject(
            pair.target, alignment, data_for(probe), journal
        )
        block = chosen.links[0].target
        assert journal.changed()
        assert set(journal.changed()) <= set(pair.target.anatomy.block_parameters(block))


def test_weight_zero_is_plain_fine_tuning():
    """A layer weight of 0 gives, bit for bit, what cross-entropy alone gives."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    results = []
    for injector in (
        AllBlocksInjector(AllBlocksOptions(layer_weight=0.0)),
        FineTuneInjector(FineTuneOptions()),
    ):
        with Journal(pair.target) as journal:
            injector.inject(pair.target, aligned(pair, probe), data_for(probe), journal)
            results.append(snapshot(pair.target))
            journal.rollback()
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_runs_repeat_exactly():
    outcomes = []
    for _ in range(2):
        pair = pair_of("qwen2")
        probe = Probe(pair, word_task())
        with Journal(pair.target) as journal:
            AllBlocksInjector(AllBlocksOptions(train="lora", rank=2)).inject(
                pair.target, aligned(pair, probe), data_for(probe), journal
            )
        outcomes.append(snapshot(pair.target))
    assert all(torch.equal(value, outcomes[1][name]) for name, value in outcomes[0].items())


def test_the_self_anchor_reads_no_source():
    pair = pair_of("llama")
    foreign = tiny_loaded("llama", seed=3, width=48, blocks=4, heads=6, kv_heads=3, vocab=59)
    pair = ModelPair(foreign, pair.target)
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SelfAnchor(SelfOptions()).align(pair, chosen, probe)
    assert alignment.target_states.origin is Origin.TARGET
    with Journal(pair.target) as journal:
        done = AllBlocksInjector(AllBlocksOptions(layer_term="cosine")).inject(
            pair.target, alignment, data_for(probe, steps=1), journal
        )
    assert abs(done.losses["layer"][0]) < 1e-4, "at step 0 the target is its own anchor"


@given(rows=st.integers(2, 300), seed=st.integers(0, 2**31))
def test_the_shuffled_placebo_never_reads_the_item_itself(rows, seed):
    other = item_permutation(rows, seed)
    assert sorted(other) == list(range(rows))
    assert all(here != there for here, there in enumerate(other))


@given(rows=st.sets(st.integers(0, 1000), min_size=2, max_size=50), seed=st.integers(0, 2**31))
def test_the_shuffled_placebo_reads_rows_of_the_run_only(rows, seed):
    """Rows answered by the source come twice in their split; the twin of a row is never read."""
    other = others(sorted(rows), seed)
    assert other.keys() == rows and set(other.values()) == rows
    assert all(here != there for here, there in other.items())


def test_shuffling_changes_what_is_read_and_nothing_else():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    right = aligned(pair, probe)
    shuffled = aligned(pair, probe, placebo="shuffled-items")
    assert shuffled.target_states.shuffle_items and not right.target_states.shuffle_items
    states = {b: torch.randn(4, 48) for b in right.target_states.origin_blocks}
    for block in right.target_states.blocks:
        assert torch.equal(
            right.target_states.states(block, states), shuffled.target_states.states(block, states)
        )


@given(shift=st.floats(-100, 100), seed=st.integers(0, 1000))
def test_centring_removes_what_all_tokens_share(shift, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    plain = centred_cosine_distance(a, b)
    torch.testing.assert_close(
        centred_cosine_distance(a + shift, b - shift), plain, rtol=1e-3, atol=1e-3
    )


def test_one_distance_per_family_of_heads_is_finite_for_bf16():
    pair = pair_of("llama")
    pair.source.model.bfloat16()
    pair.target.model.bfloat16()
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        done = AllBlocksInjector(AllBlocksOptions()).inject(
            pair.target, aligned(pair, probe), data_for(probe), journal
        )
    assert all(value == value for values in done.losses.values() for value in values)


def test_different_tokenizers_are_mapped_by_what_they_share():
    """The source lacks the target's last two tokens; the map is that of the other rows."""
    pair = pair_of("llama")
    other = tiny_loaded("llama", seed=3, width=48, blocks=4, heads=6, kv_heads=3, vocab=59)
    pair = ModelPair(other, pair.target)
    alignment = aligned(pair, Probe(pair, word_task()), map="lens")
    rows = [1, 2, *range(4, 59)]  # padding and unknown tokens are not atoms
    head = pair.target.anatomy.head_weight[rows].double()
    expected = torch.linalg.pinv(head) @ other.anatomy.head_weight[rows].double()
    assert alignment.diagnostics["vocabulary"] == 57
    torch.testing.assert_close(alignment.target_states.maps[0].matrix, expected)


def test_steering_needs_target_states():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    nothing = Alignment("none", layer_map(pair, 0, 1, 3))
    before = snapshot(pair.target)
    with pytest.raises(StrategyError, match="semantic"), Journal(pair.target) as journal:
        AllBlocksInjector(AllBlocksOptions()).inject(pair.target, nothing, data_for(probe), journal)
    assert same_bits(pair.target, before)


def test_accumulating_gives_the_gradients_of_the_whole_batch():
    """Items of unequal length: micro-batches count by supervised tokens, not by rows."""
    items = word_task().items("train")
    longer = attrs.evolve(items[0], answer="t1 t2 t3 t4 t5 t6")
    task = attrs.evolve(word_task(), splits=dict.fromkeys(SPLITS, (longer, *items[1:])))
    results = []
    for accumulate in (1, 3):
        pair = pair_of("llama")
        probe = Probe(pair, task)
        data = data_for(probe, steps=2, batch_size=6, accumulate=accumulate, learning_rate=1e-3)
        with Journal(pair.target) as journal:
            FineTuneInjector(FineTuneOptions()).inject(
                pair.target, Alignment("none", layer_map(pair, 0)), data, journal
            )
        results.append(snapshot(pair.target))
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-3, atol=1e-4)

"""Seeking: which layers, which windows, and a start that leaves the target as it was."""

from __future__ import annotations

import attrs
import pytest
import torch
from low_rank_starts import aligned, begun, best_of_rank, relative_error
from tiny_transfers import (
    SOURCE,
    data_for,
    layer_map,
    logits,
    pair_of,
    same_bits,
    snapshot,
    tree,
    word_task,
)

import pktkit_seeking
from pktkit.errors import NonFiniteError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.testing import tiny_loaded
from pktkit.updates import LowRankUpdate
from pktkit.values import Alignment
from pktkit_seeking.aligner import WINDOWS, SensitiveSubmatrix, SubmatrixOptions
from pktkit_seeking.factors import factors, kept_energy
from pktkit_seeking.injector import LoraStart, LoraStartOptions, module_starts
from pktkit_seeking.matcher import SensitivityMatcher, SensitivityOptions, most_sensitive, reused
from pktkit_seeking.matrices import canonical, parameter_name
from pktkit_seeking.modules import pair_obstacles
from pktkit_seeking.strategies import PISSA, SEEKING
from pktkit_seeking.window import best_window

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma", "phi")


# --- layers --------------------------------------------------------------------------------


def test_ties_keep_the_lower_block_and_the_order_is_restored():
    assert most_sensitive([3.0, 1.0, 5.0, 3.0], 2) == (0, 2)
    assert most_sensitive([1.0, 1.0, 1.0, 1.0], 3) == (0, 1, 2)
    assert most_sensitive([0.0, 4.0, 1.0], 5) == (0, 1, 2)


class GivenSensitivities:
    """A probe that only knows sensitivities."""

    def __init__(self, pair, block_totals):
        anatomy = pair.source.anatomy
        self.values = {n: torch.zeros(p.shape) for n, p in pair.source.model.named_parameters()}
        for block, total in enumerate(block_totals):
            norm = next(n for n in anatomy.block_parameters(block) if "norm" in n)
            self.values[norm][0] = total

    def sensitivities(self, split):
        return self.values


def test_matcher_scores_blocks_by_all_their_parameters():
    pair = pair_of("llama")
    probe = GivenSensitivities(pair, (2.0, 0.5, 3.0, 4.0))
    found = SensitivityMatcher(SensitivityOptions()).match(pair, probe)
    assert found.scores == (2.0, 0.5, 3.0, 4.0)
    assert [(link.target, link.sources) for link in found.links] == [
        (0, (0,)),
        (1, (2,)),
        (2, (3,)),
    ]
    assert not found.note


def test_a_shallower_source_is_reused_by_depth():
    pair = pair_of("llama", source={"blocks": 2})
    found = SensitivityMatcher(SensitivityOptions()).match(
        pair, GivenSensitivities(pair, (1.0, 2.0))
    )
    assert [(link.target, link.sources) for link in found.links] == [
        (0, (0,)),
        (1, (0,)),
        (2, (1,)),
    ]
    assert "2 blocks for 3" in found.note
    assert reused(2, 4) == (0, 0, 1, 1) and reused(3, 5) == (0, 0, 1, 1, 2)


def test_a_sensitivity_that_is_not_finite_names_the_block():
    pair = pair_of("llama")
    with pytest.raises(NonFiniteError, match="block 2"):
        SensitivityMatcher(SensitivityOptions()).match(
            pair, GivenSensitivities(pair, (1.0, 1.0, float("inf"), 1.0))
        )


# --- extraction ----------------------------------------------------------------------------


def test_factors_are_the_best_approximation_with_sigma_in_b():
    matrix = torch.randn(20, 12, generator=torch.Generator().manual_seed(0))
    _, sigma, _ = torch.linalg.svd(matrix)
    for svd in ("exact", "randomised"):
        b, a = factors(matrix, 5, svd=svd)
        assert (b.shape, a.shape) == ((20, 5), (5, 12))
        assert torch.allclose(a @ a.T, torch.eye(5), atol=1e-5)
        assert torch.allclose(b.norm(dim=0), sigma[:5], rtol=1e-3)
        assert float((matrix - b @ a).norm()) == pytest.approx(float(sigma[5:].norm()), rel=1e-3)
        energy = float(sigma[:5].square().sum() / sigma.square().sum())
        assert kept_energy(matrix, b, a) == pytest.approx(energy, rel=1e-3)
    b, a = factors(matrix, 12)
    assert torch.allclose(b @ a, matrix, atol=1e-4)


def test_factors_of_a_hand_computed_matrix():
    """Singular values 4 and 1: all of them in B, or their roots on both sides."""
    matrix = torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    b, a = factors(matrix, 1)
    assert b.abs().tolist() == [[4.0], [0.0]] and a.abs().tolist() == [[0.0, 1.0]]
    b, a = factors(matrix, 1, sigma="both")
    assert b.abs().tolist() == [[2.0], [0.0]] and a.abs().tolist() == [[0.0, 2.0]]
    assert kept_energy(matrix, b, a) == pytest.approx(16 / 17)


def test_the_randomised_decomposition_follows_its_seed_and_leaves_the_global_one():
    matrix = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))

    def draw(seed):
        return factors(matrix, 2, svd="randomised", niter=0, seed=seed)[0]

    state = torch.get_rng_state()
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("family", FAMILIES)
def test_extraction_cuts_the_best_window_in_canonical_orientation(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    before = snapshot(pair.source)
    alignment = aligned(pair, probe, rank=8)
    sensitivities = probe.sensitivities()
    by_place = {(w["block"], w["module"]): w for w in alignment.diagnostics["windows"]}
    for update in alignment.low_rank:
        if update.projection in ("embed", "head"):
            continue
        source_block = (0, 2, 3)[update.block]
        ours = pair.source.anatomy.projections(source_block)[update.projection]
        theirs = pair.target.anatomy.projections(update.block)[update.projection]
        shape = tuple(theirs.read(pair.target.model).shape)
        window = best_window(canonical(ours, sensitivities[ours.parameter]), shape)
        place = by_place[update.block, update.projection]
        assert (place["row"], place["column"]) == (window.row, window.column)
        cut = window.cut(ours.read(pair.source.model), shape)
        assert torch.allclose(update.b @ update.a, best_of_rank(cut, 8), atol=1e-4)
    assert len(by_place) == len(alignment.low_rank)
    assert same_bits(pair.source, before)


def test_embedding_and_head_keep_their_token_rows():
    pair = pair_of("llama")
    alignment = aligned(pair, Probe(pair, word_task()), rank=32, modules=("embed", "head"))
    assert [(u.block, u.projection) for u in alignment.low_rank] == [(-1, "embed"), (3, "head")]
    embed, head = alignment.diagnostics["windows"]
    assert embed["column"] == 0 and embed["width"] == 61
    assert head["row"] == 0 and head["height"] == 61
    row = embed["row"]
    expected = pair.source.anatomy.embedding.weight[:, row : row + 32]
    update = alignment.low_rank[0]
    assert torch.allclose((update.b @ update.a).T, expected, atol=1e-4)


def test_tied_ends_are_passed_over_with_a_reason_and_refused_by_name():
    pair = pair_of("gemma")
    probe = Probe(pair, word_task())
    passed_over = aligned(pair, probe).diagnostics["passed_over"]
    assert set(passed_over) == {"embed", "head"} and "ties" in passed_over["head"]
    assert (
        parameter_name(pair.source, pair.source.anatomy.head_weight) == "model.embed_tokens.weight"
    )
    with pytest.raises(UsageError, match=r"'head' was asked for, but target 'gemma' ties"):
        aligned(pair, probe, modules=("q", "head"))


def test_ends_are_passed_over_where_tokens_differ():
    pair = pair_of("llama")
    other = tiny_loaded("llama", seed=3, vocab=59, **SOURCE)
    found = pair_obstacles(ModelPair(other, pair.target))
    assert set(found) == {"embed", "head"} and "tokenizers differ" in found["embed"]


def test_a_tied_source_serves_both_ends_of_an_untied_target():
    pair = pair_of("llama", source={"tied": True})
    alignment = aligned(pair, Probe(pair, word_task()), modules=("embed", "head"))
    embed, head = alignment.diagnostics["windows"]
    assert embed["row"] == head["column"]
    first, second = alignment.low_rank
    assert torch.allclose((first.b @ first.a).T, second.b @ second.a, atol=1e-4)


def test_a_larger_target_receives_zeros_outside():
    pair = pair_of("gpt2", "llama", source={"width": 16, "heads": 2, "ffn": 24, "tied": False})
    alignment = aligned(pair, Probe(pair, word_task()), rank=32, modules=("up",))
    for update in alignment.low_rank:
        product = update.b @ update.a
        assert product.shape == (48, 32)
        assert product[24:].abs().max() < 1e-5 and product[:, 16:].abs().max() < 1e-5
    everything = aligned(pair, Probe(pair, word_task()))
    assert "source 'gpt2' of family 'gpt2'" in everything.diagnostics["passed_over"]["gate"]


def test_windows_at_heads_begin_at_heads():
    pair = pair_of("gemma", source={"head_dim": 16}, target={"head_dim": 16})
    alignment = aligned(pair, Probe(pair, word_task()), window="block-heads")
    offsets = {"q": "row", "k": "row", "v": "row", "o": "column"}
    found = [w for w in alignment.diagnostics["windows"] if w["module"] in offsets]
    assert len(found) == 12
    assert all(w[offsets[w["module"]]] % 16 == 0 for w in found)


def test_options_are_checked():
    assert build_options(SubmatrixOptions, {"modules": ["q", "up"]}, "x").modules == ("q", "up")
    for bad in ({"rank": 0}, {"window": "row"}, {"svd": "full"}, {"niter": -1}):
        with pytest.raises(UsageError):
            build_options(SubmatrixOptions, bad, "aligner")
    with pytest.raises(UsageError, match=r"'downn'.*Did you mean 'down'"):
        build_options(SubmatrixOptions, {"modules": ["downn"]}, "aligner")
    for bad in ({"alpha": 0}, {"dropout": 1.0}, {"subtract": "all"}, {"start": "W"}):
        with pytest.raises(UsageError):
            build_options(LoraStartOptions, bad, "injector")


def test_what_cannot_be_extracted_is_refused_with_figures():
    pair = pair_of("gpt2")
    probe = Probe(pair, word_task())
    with pytest.raises(
        UsageError, match=r"'gate' was asked for, but target 'gpt2'.*q, k, v, o, up"
    ):
        aligned(pair, probe, modules=("gate",))
    llama = pair_of("llama")
    with pytest.raises(UsageError, match=r"rank 17 .*k of block 0, 16×32.*rank to 16 or less"):
        aligned(llama, Probe(llama, word_task()), rank=17)
    with pytest.raises(UsageError, match="links no block"):
        aligned(llama, Probe(llama, word_task()), sources=(), modules=("q",))


def test_a_sensitivity_that_is_not_finite_leaves_the_target_alone():
    pair = pair_of("llama")
    before = snapshot(pair.target)
    probe = GivenSensitivities(pair, (1.0, 1.0, 1.0, 1.0))
    probe.values["model.layers.2.mlp.up_proj.weight"][3, 3] = float("nan")
    for window in ("block", "rowcol", "random", "coherent"):
        with pytest.raises(NonFiniteError, match="up of source block 2"):
            aligned(pair, probe, window=window)
    assert same_bits(pair.target, before)


def test_an_empty_seed_split_is_refused():
    pair, task = pair_of("llama"), word_task()
    empty = attrs.evolve(task, splits={**task.splits, "extract": ()})
    with pytest.raises(UsageError, match="'extract' has no items"):
        SensitivityMatcher(SensitivityOptions()).match(pair, Probe(pair, empty))


# --- injection -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_step_zero_is_the_untouched_target_whatever_the_window(family):
    pair = pair_of(family)
    probe, before = Probe(pair, word_task()), logits(pair.target)
    for window in WINDOWS:
        relative, started, merged, _ = begun(pair, aligned(pair, probe, window=window))
        assert min(relative.values()) > 0.01
        assert relative_error(started, before) < 1e-5
        assert relative_error(merged, before) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_without_subtraction_the_start_is_added(family):
    pair = pair_of(family)
    alignment = aligned(pair, Probe(pair, word_task()))
    before, original = logits(pair.target), snapshot(pair.target)
    _, started, merged, weights = begun(pair, alignment, subtract=False)
    assert relative_error(started, before) > 0.1
    assert torch.allclose(merged, started, atol=1e-4)
    for update in alignment.low_rank:
        if update.projection not in ("embed", "head"):
            projection = pair.target.anatomy.projections(update.block)[update.projection]
            added = canonical(projection, weights[projection.parameter]) - canonical(
                projection, original[projection.parameter]
            )
            assert torch.allclose(added, 2.0 * update.b @ update.a, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "phi"])
def test_biases_and_norms_keep_their_bits(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    vectors = {n: p for n, p in snapshot(pair.target).items() if p.dim() == 1}
    assert any(name.endswith("bias") for name in vectors)
    with Journal(pair.target) as journal:
        LoraStart(LoraStartOptions()).inject(
            pair.target, aligned(pair, probe), data_for(probe), journal
        )
    after = snapshot(pair.target)
    assert all(torch.equal(after[name], value) for name, value in vectors.items())


@pytest.mark.parametrize(
    "sizes",
    [{"blocks": 2}, {"width": 24, "heads": 3}, {"ffn": 40}, {"heads": 2, "kv_heads": 1}],
)
def test_a_target_larger_in_one_dimension_starts_untouched(sizes):
    pair = pair_of("llama", source=sizes)
    probe, before = Probe(pair, word_task()), logits(pair.target)
    found = SensitivityMatcher(SensitivityOptions()).match(pair, probe)
    for window in WINDOWS:
        options = SubmatrixOptions(rank=4, window=window)
        alignment = SensitiveSubmatrix(options).align(pair, found, probe)
        assert {u.block for u in alignment.low_rank} == {-1, 0, 1, 2, 3}
        assert relative_error(begun(pair, alignment)[1], before) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transfer_leaves_no_trace_but_changed_weights(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    source, target = snapshot(pair.source), snapshot(pair.target)
    shape, flags = tree(pair.target), [p.requires_grad for p in pair.target.model.parameters()]
    source_shape = tree(pair.source)
    alignment = aligned(pair, probe, sources=(1, 3))
    with Journal(pair.target) as journal:
        injection = LoraStart(LoraStartOptions()).inject(
            pair.target, alignment, data_for(probe), journal
        )
    assert injection.steps == 3 and injection.tokens > 0
    assert len(injection.losses["cross_entropy"]) == 3
    assert injection.trainable_parameters > 0
    assert tree(pair.target) == shape
    assert [p.requires_grad for p in pair.target.model.parameters()] == flags
    assert all(p.grad is None for p in pair.target.model.parameters())
    assert snapshot(pair.target).keys() == target.keys()
    assert journal.changed() and set(journal.changed()) <= set(target)
    assert same_bits(pair.source, source) and tree(pair.source) == source_shape


def test_the_same_seed_gives_the_same_target_whatever_ran_before():
    results = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        pair = pair_of("llama")
        probe = Probe(pair, word_task())
        with Journal(pair.target) as journal:
            LoraStart(LoraStartOptions(dropout=0.3)).inject(
                pair.target, aligned(pair, probe, sources=(0, 1)), data_for(probe), journal
            )
        results.append(snapshot(pair.target))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_training_from_the_start_learns():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        injection = LoraStart(LoraStartOptions(dropout=0.0)).inject(
            pair.target, aligned(pair, probe), data_for(probe, steps=30), journal
        )
    losses = injection.losses["cross_entropy"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_failure_in_training_restores_every_bit(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    alignment = aligned(pair, probe)
    before, shape = snapshot(pair.target), tree(pair.target)

    def fail(step, steps, loss):
        if step == 2:
            raise KeyboardInterrupt

    data = data_for(probe)
    object.__setattr__(data, "progress", fail)
    with pytest.raises(KeyboardInterrupt), Journal(pair.target) as journal:
        LoraStart(LoraStartOptions()).inject(pair.target, alignment, data, journal)
    assert same_bits(pair.target, before) and tree(pair.target) == shape


def test_updates_that_do_not_fit_are_refused():
    pair = pair_of("gpt2")
    probe = Probe(pair, word_task())
    anatomy = pair.target.anatomy
    injector = LoraStart(LoraStartOptions())
    empty = Alignment("semantic", layer_map(pair, 0))
    with pytest.raises(UsageError, match=r"'semantic' gave\s+none"):
        injector.inject(pair.target, empty, data_for(probe), Journal(pair.target))
    b, a = torch.ones(48, 2), torch.ones(2, 32)
    with pytest.raises(UsageError, match="'gate'"):
        module_starts(anatomy, [LowRankUpdate(0, "gate", b, a)])
    with pytest.raises(UsageError, match="48 rows"):
        module_starts(anatomy, [LowRankUpdate(0, "q", b, a)])


def test_plugin_registers_what_the_strategy_names():
    components = {
        component.name: component
        for hook in (
            pktkit_seeking.pktkit_layer_matchers,
            pktkit_seeking.pktkit_latent_aligners,
            pktkit_seeking.pktkit_knowledge_injectors,
            pktkit_seeking.pktkit_strategies,
        )
        for component in hook()
    }
    assert components["seeking"].load() is SEEKING
    assert components["pissa"].load() is PISSA
    choices = (SEEKING.matcher, SEEKING.aligner, SEEKING.injector, PISSA.aligner, PISSA.injector)
    for choice in choices:
        cls = components[choice.name].load()
        assert cls(build_options(cls.Options, choice.options, choice.name))

"""Seeking: which layers, which windows, and a start that leaves the target as it was."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import (
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
from pktkit.adapters import LoraShape, lora
from pktkit.errors import NonFiniteError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.probe import Probe
from pktkit.values import Alignment, LowRankUpdate
from pktkit_seeking import window as window_module
from pktkit_seeking.aligner import (
    MODULES,
    SensitiveSubmatrix,
    SubmatrixOptions,
    canonical,
    factors,
    parameter_name,
)
from pktkit_seeking.injector import LoraStart, LoraStartOptions, begin, module_starts
from pktkit_seeking.matcher import SensitivityMatcher, SensitivityOptions, most_sensitive
from pktkit_seeking.strategies import SEEKING
from pktkit_seeking.window import best_window, random_window

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma", "phi")


def aligned(pair, probe, sources=(0, 2, 3), **options):
    return SensitiveSubmatrix(SubmatrixOptions(**({"rank": 4} | options))).align(
        pair, layer_map(pair, *sources), probe
    )


def brute_force(scores, height, width):
    """Sum every window exactly; the first of the largest wins."""
    rows, columns = len(scores), len(scores[0])
    best, place = None, None
    for i, j in itertools.product(range(rows - height + 1), range(columns - width + 1)):
        total = sum(Fraction(x) for line in scores[i : i + height] for x in line[j : j + width])
        if best is None or total > best:
            best, place = total, (i, j)
    return place


# --- windows -------------------------------------------------------------------------------


def test_window_of_a_hand_computed_matrix():
    scores = torch.tensor([[1.0, 0, 0, 2], [0, 5, 1, 0], [0, 1, 4, 0]])
    window = best_window(scores, (2, 2))
    assert (window.row, window.column, window.height, window.width) == (1, 1, 2, 2)
    assert window.share == pytest.approx(11 / 14)
    assert torch.equal(window.cut(scores, (2, 2)), torch.tensor([[5.0, 1], [1, 4]]))


def test_first_window_in_row_major_order_wins_ties():
    assert best_window(torch.ones(5, 7), (2, 3)).row == 0
    assert best_window(torch.ones(5, 7), (2, 3)).column == 0
    assert best_window(torch.zeros(3, 3), (2, 2)).share == 0.0
    corners = torch.zeros(4, 4)
    corners[0, 3] = corners[3, 0] = 0.1
    window = best_window(corners, (2, 2))
    assert (window.row, window.column) == (0, 2)


def test_equal_windows_tie_whatever_stands_before_them():
    scores = torch.zeros(1, 64)
    scores[0, :20] = torch.linspace(1e-7, 0.3, 20)
    scores[0, 30] = scores[0, 40] = 0.3
    scores[0, 31] = scores[0, 41] = 0.7
    assert best_window(scores, (1, 2)).column == 30


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_summed_area_search_equals_brute_force(data):
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    entry = st.one_of(
        st.integers(0, 3).map(float), st.floats(2**-10, 2**10, width=32), st.just(0.0)
    )
    line = st.lists(entry, min_size=columns, max_size=columns)
    scores = data.draw(st.lists(line, min_size=rows, max_size=rows))
    window = best_window(torch.tensor(scores), (height, width))
    assert (window.row, window.column) == brute_force(scores, height, width)


@pytest.mark.parametrize("band", [1, 50, 10_000])
def test_bands_do_not_change_the_choice(monkeypatch, band):
    scores = torch.rand(40, 33, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(window_module, "BAND", band)
    window = best_window(scores, (7, 5))
    assert (window.row, window.column) == brute_force(scores.tolist(), 7, 5)
    coarse = best_window(scores, (8, 4), steps=(8, 4))
    assert coarse.row % 8 == 0 and coarse.column % 4 == 0
    sums = scores.double().unfold(0, 8, 8).unfold(1, 4, 4).sum((-1, -2))
    assert (coarse.row // 8, coarse.column // 4) == divmod(int(sums.argmax()), sums.shape[1])


def test_a_window_larger_than_the_matrix_takes_it_whole_and_pads():
    matrix = torch.arange(6.0).reshape(2, 3)
    window = best_window(matrix, (4, 2))
    assert (window.row, window.column, window.height, window.width) == (0, 1, 2, 2)
    cut = window.cut(matrix, (4, 2))
    assert cut.tolist() == [[1, 2], [4, 5], [0, 0], [0, 0]]
    whole = best_window(matrix, (9, 9))
    assert whole.share == 1.0 and whole.cut(matrix, (9, 9)).sum() == matrix.sum()


def test_extreme_scales_do_not_overflow():
    for scale in (1e-250, 1e-38, 1.0, 1e30, 1e290):
        scores = torch.tensor([[1.0, 2, 3], [1, 9, 1]], dtype=torch.float64) * scale
        window = best_window(scores, (1, 2))
        assert (window.row, window.column) == (1, 0)
        assert window.share == pytest.approx(10 / 17)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(NonFiniteError):
        best_window(torch.tensor([[1.0, float("nan")]]), (1, 1))
    with pytest.raises(UsageError, match="non-empty"):
        best_window(torch.ones(3), (1, 1))


def test_random_windows_lie_inside_and_follow_the_seed():
    scores = torch.rand(9, 8)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return [random_window(scores, (4, 3), generator=generator) for _ in range(60)]

    windows = draw(0)
    assert windows == draw(0) != draw(1)
    assert {w.row for w in windows} == set(range(6))
    assert {w.column for w in windows} == set(range(6))


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


def test_a_shallower_source_leaves_the_last_target_blocks_alone():
    pair = pair_of("llama", source={"blocks": 2})
    found = SensitivityMatcher(SensitivityOptions()).match(
        pair, GivenSensitivities(pair, (1.0, 2.0))
    )
    assert [(link.target, link.sources) for link in found.links] == [(0, (0,)), (1, (1,))]
    assert "target blocks 2 to 2" in found.note


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
    for decomposition in ("thin", "randomised"):
        b, a = factors(matrix, 5, decomposition)
        assert (b.shape, a.shape) == ((20, 5), (5, 12))
        assert torch.allclose(a @ a.T, torch.eye(5), atol=1e-5)
        assert torch.allclose(b.norm(dim=0), sigma[:5], rtol=1e-3)
        assert float((matrix - b @ a).norm()) == pytest.approx(float(sigma[5:].norm()), rel=1e-3)
    b, a = factors(matrix, 99)
    assert a.shape[0] == 12 and torch.allclose(b @ a, matrix, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_extraction_cuts_the_best_window_in_canonical_orientation(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    before = snapshot(pair.source)
    alignment = aligned(pair, probe, rank=64)
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
        expected = window.cut(ours.read(pair.source.model), shape)
        assert torch.allclose(update.b @ update.a, expected, atol=1e-4)
    assert len(by_place) == len(alignment.low_rank)
    assert same_bits(pair.source, before)


def test_embedding_and_head_keep_their_token_rows():
    pair = pair_of("llama")
    alignment = aligned(pair, Probe(pair, word_task()), rank=99, modules=("embed", "head"))
    assert [(u.block, u.projection) for u in alignment.low_rank] == [(-1, "embed"), (3, "head")]
    embed, head = alignment.diagnostics["windows"]
    assert embed["column"] == 0 and embed["width"] == 61
    assert head["row"] == 0 and head["height"] == 61
    row = embed["row"]
    expected = pair.source.anatomy.embedding.weight[:, row : row + 32]
    update = alignment.low_rank[0]
    assert torch.allclose((update.b @ update.a).T, expected, atol=1e-4)


def test_tied_ends_are_passed_over():
    pair = pair_of("gemma")
    alignment = aligned(pair, Probe(pair, word_task()))
    assert alignment.diagnostics["passed_over"] == ["embed", "head"]
    assert (
        parameter_name(pair.source, pair.source.anatomy.head_weight) == "model.embed_tokens.weight"
    )


def test_a_larger_target_receives_zeros_outside_and_missing_projections_are_named():
    pair = pair_of("gpt2", "llama", source={"width": 16, "heads": 2, "ffn": 24, "tied": False})
    alignment = aligned(pair, Probe(pair, word_task()), rank=99, modules=("gate", "up"))
    assert alignment.diagnostics["passed_over"] == ["gate"]
    for update in alignment.low_rank:
        product = update.b @ update.a
        assert product.shape == (48, 32)
        assert product[24:].abs().max() < 1e-5 and product[:, 16:].abs().max() < 1e-5


def test_options_are_checked():
    assert build_options(SubmatrixOptions, {"modules": ["q", "up"]}, "x").modules == ("q", "up")
    assert SubmatrixOptions().modules == MODULES
    for bad in ({"rank": 0}, {"modules": ["qq"]}, {"window": "row"}):
        with pytest.raises(UsageError):
            build_options(SubmatrixOptions, bad, "aligner")
    for bad in ({"alpha": 0}, {"dropout": 1.0}, {"subtract": "all"}):
        with pytest.raises(UsageError):
            build_options(LoraStartOptions, bad, "injector")


# --- injection -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("subtract", [True, False])
def test_step_zero_is_the_untouched_target_unless_nothing_is_subtracted(family, subtract):
    pair = pair_of(family)
    alignment = aligned(pair, Probe(pair, word_task()))
    starts = module_starts(pair.target.anatomy, alignment.low_rank)
    before, original = logits(pair.target), snapshot(pair.target)
    kinds = tuple(dict.fromkeys(u.projection for u in alignment.low_rank))
    ranks = {start.module: start.rank for start in starts}
    journal = Journal(pair.target)
    with journal:
        shape = LoraShape(rank=4, alpha=8.0, kinds=kinds)
        with lora(pair.target, journal, shape, ranks=ranks) as adapter:
            relative = begin(adapter, starts, journal, subtract=subtract)
            started = logits(adapter.model)
        merged = logits(pair.target)
    assert min(relative.values()) > 0.01
    error = float((started - before).abs().max() / before.abs().max())
    assert error < 1e-5 if subtract else error > 0.1
    assert torch.allclose(merged, started, atol=1e-4)
    for update in alignment.low_rank:
        if not subtract and update.projection not in ("embed", "head"):
            projection = pair.target.anatomy.projections(update.block)[update.projection]
            old = canonical(projection, original[projection.parameter])
            added = projection.read(pair.target.model) - old
            assert torch.allclose(added, 2.0 * update.b @ update.a, atol=1e-4)


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
    for choice in (SEEKING.matcher, SEEKING.aligner, SEEKING.injector):
        cls = components[choice.name].load()
        assert cls(build_options(cls.Options, choice.options, choice.name))

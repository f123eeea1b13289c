"""Layer matchers: pairing by depth, attribution, affinity and Fisher information."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from structlog.testing import capture_logs
from tiny_transfers import pair_of, word_task

import pktkit_latent
from pktkit.errors import NonFiniteError, UsageError
from pktkit.options import build_options
from pktkit.pair import ModelPair
from pktkit.probe import Probe, ProbeSettings
from pktkit.testing import tiny_loaded
from pktkit.values import Interface, Origin
from pktkit_latent.matchers import (
    AffinityMatcher,
    AffinityOptions,
    AttributionMatcher,
    AttributionOptions,
    DepthMatcher,
    DepthOptions,
    FisherMatcher,
    FisherOptions,
    InterpolatedMatcher,
    InterpolatedOptions,
    RestrictionOptions,
    attribution_stability,
    first_reaching,
    interpolated_link,
    linked_blocks,
    monotone_assignment,
    paired_source,
)
from pktkit_latent.matchers.affinity import affinity_matrix, token_batches

depths = st.integers(1, 120)
FAMILIES = ["llama", "qwen2", "gemma", "gpt2"]
ONE_SOURCE_EACH = [
    (DepthMatcher, DepthOptions),
    (AffinityMatcher, AffinityOptions),
    (FisherMatcher, FisherOptions),
]
RESTRICTED = [*ONE_SOURCE_EACH, (InterpolatedMatcher, InterpolatedOptions)]


class GivenGradients:
    """A probe that only knows what a backward pass over the source reads."""

    def __init__(self, scores, loss=1.0):
        self.scores = torch.tensor(scores, dtype=torch.float32)
        self.loss = loss

    def attribution(self, split):
        return self.scores

    def fisher(self, split):
        return self.scores.abs()

    def source_loss(self, split):
        return torch.full((len(self.scores),), self.loss)


def links(layer_map):
    return [(link.target, link.sources) for link in layer_map.links]


# --- depth -----------------------------------------------------------------------------------


def published(k: int, source: int, target: int) -> int:
    """`l(k) = max(1, floor(L_src / L_tgt · k))`, 1-based, in exact arithmetic."""
    return max(1, (source * k) // target)


@given(source=depths, target=depths)
def test_pairing_follows_the_published_formula(source: int, target: int) -> None:
    for k in range(1, target + 1):
        assert paired_source(k - 1, source, target) + 1 == published(k, source, target)


@given(source=depths, target=depths)
def test_pairing_is_monotone_in_range_and_ends_at_the_last_block(source: int, target: int) -> None:
    pairs = [paired_source(k, source, target) for k in range(target)]
    assert pairs == sorted(pairs)
    assert all(0 <= pair < source for pair in pairs)
    assert pairs[-1] == source - 1


@given(source=depths, target=depths, data=st.data())
def test_a_critical_block_goes_to_the_first_target_block_that_reaches_it(
    source: int, target: int, data: st.DataObject
) -> None:
    critical = data.draw(st.integers(0, source - 1))
    chosen = first_reaching(critical, source, target)
    assert paired_source(chosen, source, target) >= critical
    assert chosen == 0 or paired_source(chosen - 1, source, target) < critical


def test_llama_13b_to_7b() -> None:
    """40 source and 32 target layers: l(1)=1, l(4)=5, l(32)=40 (1-based)."""
    assert [paired_source(k - 1, 40, 32) + 1 for k in (1, 2, 4, 31, 32)] == [1, 2, 5, 38, 40]


# --- interpolated ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        # u = 1.5, 3: halfway between layers 1 and 2 (1-based), then layer 3.
        (3, 2, [((0, 1), (0.5, 0.5)), ((2,), (1.0,))]),
        # u = 1.25, 2.5, 3.75, 5.
        (
            5,
            4,
            [
                ((0, 1), (0.75, 0.25)),
                ((1, 2), (0.5, 0.5)),
                ((2, 3), (0.25, 0.75)),
                ((4,), (1.0,)),
            ],
        ),
        # u = 2, 4: whole, hence the links by depth.
        (4, 2, [((1,), (1.0,)), ((3,), (1.0,))]),
        # A deeper target, u = 0.5, 1, 1.5, 2: below layer 1 there is nothing to mix with.
        (2, 4, [((0,), (1.0,)), ((0,), (1.0,)), ((0, 1), (0.5, 0.5)), ((1,), (1.0,))]),
        # One source block.
        (1, 3, [((0,), (1.0,))] * 3),
    ],
)
def test_worked_numbers_of_interpolation(source, target, expected):
    found = [interpolated_link(k, source, target) for k in range(target)]
    assert [(link.sources, link.weights) for link in found] == expected


@given(source=depths, target=depths)
def test_interpolation_sits_at_the_relative_depth(source, target):
    positions = []
    for k in range(1, target + 1):
        link = interpolated_link(k - 1, source, target)
        assert abs(sum(link.weights) - 1) < 1e-12
        assert all(0 < weight <= 1 for weight in link.weights)
        assert all(0 <= block < source for block in link.sources)
        position = sum(w * (s + 1) for s, w in zip(link.sources, link.weights, strict=True))
        assert position == pytest.approx(max(1.0, source * k / target))
        positions.append(position)
    assert positions == sorted(positions)


# --- restriction -----------------------------------------------------------------------------


@given(target=depths, share=st.floats(0, 1, exclude_max=True))
def test_the_blocks_beyond_a_share_of_depth_are_the_last_ones_and_never_none(target, share):
    linked = linked_blocks(RestrictionOptions(from_depth=share), target)
    assert linked == tuple(range(target - len(linked), target))
    assert len(linked) == max(1, len([t for t in range(target) if (t + 1) - share * target > 1e-9]))


@pytest.mark.parametrize(
    ("target", "share", "expected"),
    [(4, 0.5, (2, 3)), (3, 0.5, (1, 2)), (1, 0.5, (0,)), (100, 0.29, tuple(range(29, 100)))],
)
def test_the_later_half(target, share, expected):
    assert linked_blocks(RestrictionOptions(from_depth=share), target) == expected


def test_a_restriction_that_fits_no_block_names_index_and_range():
    with pytest.raises(UsageError, match=r"block 4, but the target has 4 blocks: expected 0\.\.3"):
        linked_blocks(RestrictionOptions(blocks=(1, 4)), 4)
    with pytest.raises(UsageError, match=r"block -1"):
        linked_blocks(RestrictionOptions(blocks=(-1,)), 4)
    with pytest.raises(UsageError, match=r"names 0, 1, and from_depth 0\.5 .* begins at block 2"):
        linked_blocks(RestrictionOptions(blocks=(1, 0), from_depth=0.5), 4)


@pytest.mark.parametrize(("matcher", "options"), RESTRICTED)
def test_a_restriction_leaves_links_out_and_changes_none(matcher, options):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    whole = matcher(options()).match(pair, probe)
    assert [link.target for link in whole.links] == [0, 1, 2]
    some = matcher(options(blocks=(2, 0, 2))).match(pair, probe)
    assert some.links == (whole.links[0], whole.links[2])
    later = matcher(options(from_depth=0.5)).match(pair, probe)
    assert later.links == whole.links[1:]
    with pytest.raises(UsageError, match=r"block 3 .*0\.\.2|block 3, .*0\.\.2"):
        matcher(options(blocks=(3,))).match(pair, probe)


# --- laws of all matchers --------------------------------------------------------------------


@pytest.mark.parametrize(("matcher", "options"), ONE_SOURCE_EACH)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("blocks", [(4, 3), (2, 4), (3, 3), (1, 2)])
def test_every_target_block_has_one_source_in_order(matcher, options, family, blocks):
    pair = pair_of(family, source={"blocks": blocks[0]}, target={"blocks": blocks[1]})
    found = matcher(options()).match(pair, Probe(pair, word_task()))
    assert [link.target for link in found.links] == list(range(blocks[1]))
    assert all(len(link.sources) == 1 and link.weights == (1.0,) for link in found.links)
    sources = [link.sources[0] for link in found.links]
    assert sources == sorted(sources)
    assert sources[0] >= 0 and sources[-1] < blocks[0]


def test_the_plugin_registers_every_matcher_under_its_options():
    registered = {c.name: c.load() for c in pktkit_latent.pktkit_layer_matchers()}
    assert set(registered) == {"depth", "interpolated", "attribution", "affinity", "fisher"}
    for name in ("depth", "interpolated", "affinity", "fisher"):
        options = build_options(registered[name].Options, {"blocks": "0,2", "from_depth": 0}, name)
        assert options.blocks == (0, 2)
    for name, bad in (
        ("depth", {"from_depth": 1.0}),
        ("affinity", {"measure": "cosine"}),
        ("affinity", {"batch_tokens": 3}),
        ("attribution", {"fallback": "affinity"}),
        ("attribution", {"resamples": 0}),
        ("attribution", {"blocks": [0]}),
    ):
        with pytest.raises(UsageError):
            build_options(registered[name].Options, bad, name)


# --- attribution -----------------------------------------------------------------------------


@pytest.mark.parametrize("items", [1, 5, 40])
@pytest.mark.parametrize("seed", range(3))
def test_resampled_intervals_bracket_the_mean_and_repeat_under_a_seed(items, seed):
    scores = np.random.default_rng(seed).normal(size=(items, 6))
    found = attribution_stability(scores, 200, seed)
    assert found == attribution_stability(scores, 200, seed)
    assert np.allclose(found.mean, scores.mean(axis=0))
    for low, mean, high in zip(found.low, found.mean, found.high, strict=True):
        assert low - 1e-12 <= mean <= high + 1e-12
        assert items == 1 or low < high
    assert sum(found.wins) == pytest.approx(1)
    assert found.critical == int(np.abs(scores.sum(axis=0)).argmax())
    assert items == 1 or found.wins != attribution_stability(scores, 200, seed + 1).wins


def test_intervals_have_the_width_of_the_standard_error():
    scores = np.random.default_rng(0).normal(2.0, 3.0, size=(900, 1))
    found = attribution_stability(scores, 4000, 0)
    assert found.high[0] - found.low[0] == pytest.approx(2 * 1.96 * 3.0 / 30, rel=0.1)


def test_two_blocks_that_depend_on_one_item_each_share_the_wins():
    """Block 0 scores 1 on item 0 only, block 1 on item 1 only: the more often drawn one wins.

    Of the four draws of two items, one is (0, 0), one (1, 1) and two are a tie, which the lower
    block wins: 3/4 against 1/4.
    """
    found = attribution_stability([[1.0, 0.0], [0.0, -1.0]], 4000, 0)
    assert found.mean == (0.5, -0.5)
    assert found.wins[0] == pytest.approx(0.75, abs=0.03)
    assert (found.low, found.high) == ((0.0, -1.0), (1.0, 0.0))


def test_scores_that_cannot_be_resampled_are_refused():
    for bad in ([], [1.0, 2.0], [[float("nan")]]):
        with pytest.raises(UsageError):
            attribution_stability(bad, 10, 0)
    with pytest.raises(UsageError, match="got 0"):
        attribution_stability([[1.0]], 0, 0)


def test_a_clear_critical_block_is_linked_without_a_note():
    pair = pair_of("llama")
    probe = GivenGradients([[0.1, -3.0, 0.5, 0.2], [0.1, -2.0, 0.5, 0.1]])
    found = AttributionMatcher(AttributionOptions()).match(pair, probe)
    assert links(found) == [(first_reaching(1, 4, 3), (1,))]
    assert found.method == "attribution" and not found.note
    assert found.scores == pytest.approx((0.2, -5.0, 1.0, 0.3))
    assert found.diagnostics["stability"]["wins"] == (0.0, 1.0, 0.0, 0.0)


def test_a_saturated_source_pairs_by_depth_with_a_warning():
    pair = pair_of("llama")
    probe = GivenGradients([[0.1, -3.0, 0.5, 0.2]] * 3, loss=0.002)
    with capture_logs() as logs:
        found = AttributionMatcher(AttributionOptions()).match(pair, probe)
    assert found.links == DepthMatcher(DepthOptions()).match(pair, None).links
    assert found.method == "attribution (fallback: depth)"
    assert "0.0020 nats" in found.note and "pair by depth" in found.note
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert len(found.scores) == 4 and found.diagnostics["stability"]["wins"][1] == 1
    regardless = AttributionMatcher(AttributionOptions(fallback="none")).match(pair, probe)
    assert regardless.method == "attribution" and "0.0020 nats" in regardless.note
    assert regardless.used_source_blocks == (1,)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "gpt_neox"])
def test_a_normalised_output_leaves_no_attribution_to_the_last_block(family):
    """The final norm ignores a state's length, so that its gradient is orthogonal to the state.

    Gradient × activation of the last block's residual output is hence zero for every token
    (Euler's theorem for functions of degree 0), whatever the block does; its squares are not.
    """
    probe = Probe(pair_of(family), word_task())
    attribution, fisher = probe.attribution().double(), probe.fisher()
    assert float(attribution[:, -1].abs().max()) < 1e-3 * float(attribution.abs().max())
    assert float(fisher[:, -1].min()) > 0


def test_an_unstable_choice_is_noted_with_its_rival():
    """Three blocks, each critical on one item only: none wins half of the resamples."""
    pair = pair_of("llama", source={"blocks": 3})
    scores = [[1.01, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] * 4
    with capture_logs() as logs:
        found = AttributionMatcher(AttributionOptions()).match(pair, GivenGradients(scores))
    assert "source block 0 is critical in" in found.note and "unstable" in found.note
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert links(found) == [(0, (0,))]


# --- assignment and affinity -----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), source=st.integers(1, 5), target=st.integers(1, 5), strict=st.booleans())
def test_assignment_equals_brute_force(data, source, target, strict):
    strict = strict and source >= target
    affinity = data.draw(arrays(np.float64, (source, target), elements=st.floats(-3, 3, width=16)))
    pick = itertools.combinations if strict else itertools.combinations_with_replacement

    def total(chosen):
        return sum(affinity[s, t] for t, s in enumerate(chosen))

    best = max(total(chosen) for chosen in pick(range(source), target))
    found = monotone_assignment(affinity, strict=strict)
    assert total(found) == pytest.approx(best, abs=1e-12)
    assert found in set(pick(range(source), target))


def test_assignment_by_hand():
    affinity = [[5.0, 4.0, 0.0], [0.0, 3.0, 9.0], [0.0, 8.0, 7.0]]
    assert monotone_assignment(affinity) == (0, 2, 2)
    assert monotone_assignment(affinity, strict=True) == (0, 1, 2)
    assert monotone_assignment(np.zeros((3, 4))) == (0, 0, 0, 0)


def test_what_cannot_be_assigned_is_refused():
    with pytest.raises(UsageError, match=r"2 source blocks .* 3 target"):
        monotone_assignment(np.zeros((2, 3)), strict=True)
    for bad in (np.zeros((0, 3)), np.zeros(3), [[float("nan")]]):
        with pytest.raises(UsageError):
            monotone_assignment(bad)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=40), least=st.integers(1, 20))
def test_batches_hold_every_row_once_and_enough_tokens(counts, least):
    batches = token_batches(counts, least)
    assert [row for rows in batches for row in rows] == list(range(len(counts)))
    sizes = [sum(counts[row] for row in rows) for rows in batches]
    assert len(batches) == 1 or min(sizes) >= least
    assert max(sizes) < 2 * least + 9


@pytest.mark.parametrize("interface", Interface)
@pytest.mark.parametrize("measure", ["cka", "centred-cosine"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_is_most_alike_to_itself_block_by_block(family, measure, interface):
    model = tiny_loaded(family, seed=1, blocks=4)
    pair = ModelPair(model, model)
    options = AffinityOptions(measure=measure, interface=interface, batch_tokens=24)
    found = AffinityMatcher(options).match(pair, Probe(pair, word_task(24)))
    assert links(found) == [(block, (block,)) for block in range(4)]
    assert np.allclose(np.diag(found.diagnostics["affinity"]), 1)
    assert "sums to 4.000, by depth to 4.000" in found.note


def unbiased_cka(states, others):
    """CKA by the estimator as printed (arXiv 2010.15327, equation 3), for one batch."""

    def hsic(x, y):
        n, one = len(x), np.ones(len(x))
        k, g = x @ x.T, y @ y.T
        np.fill_diagonal(k, 0), np.fill_diagonal(g, 0)
        centring = (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2))
        return np.trace(k @ g) + centring - 2 / (n - 2) * (one @ k @ g @ one)

    return hsic(states, others) / np.sqrt(hsic(states, states) * hsic(others, others))


@pytest.mark.parametrize("measure", ["cka", "centred-cosine"])
def test_affinity_is_cka_of_the_states_or_of_their_centred_directions(measure):
    pair = pair_of("llama")
    probe = Probe(pair, word_task(9))
    settings = {"split": "align", "interface": Interface.RESIDUAL, "batch_tokens": 256}
    found = affinity_matrix(pair, probe, measure=measure, **settings)
    sides = []
    for origin, block in ((Origin.SOURCE, 2), (Origin.TARGET, 1)):
        states = probe.states("align", [block], origin=origin).read(range(9))[block].double()
        states = states.numpy() - states.mean(dim=0).numpy()
        if measure == "centred-cosine":
            states /= np.linalg.norm(states, axis=1, keepdims=True)
        sides.append(states)
    assert float(found[2, 1]) == pytest.approx(unbiased_cka(*sides), rel=1e-6)


def test_affinity_is_the_same_from_stored_and_from_live_states():
    pair = pair_of("qwen2")
    matrices = [
        affinity_matrix(
            pair,
            Probe(pair, word_task(20), settings=ProbeSettings(max_bytes=size, batch_size=3)),
            split="align",
            measure="cka",
            interface=Interface.RESIDUAL,
            batch_tokens=20,
        )
        for size in (1 << 30, 0)
    ]
    torch.testing.assert_close(*matrices, rtol=1e-4, atol=1e-4)
    assert matrices[0].shape == (4, 3) and float(matrices[0].max()) <= 1 + 1e-9


def test_affinity_beats_the_map_by_depth_and_says_what_it_is_worth():
    """A source whose early blocks are the target's: depth pairs other blocks than affinity."""
    target = tiny_loaded("llama", seed=2, blocks=2)
    source = tiny_loaded("llama", seed=1, blocks=5)
    source.anatomy.embedding.load_state_dict(target.anatomy.embedding.state_dict())
    for block in range(2):
        source.anatomy.blocks[block].load_state_dict(target.anatomy.blocks[block].state_dict())
    pair = ModelPair(source, target)
    probe = Probe(pair, word_task(24))
    with capture_logs() as logs:
        found = AffinityMatcher(AffinityOptions()).match(pair, probe)
    assert links(found) == [(0, (0,)), (1, (1,))]
    assert "sums to 2.000" in found.note and "72 tokens only" in found.note
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert links(DepthMatcher(DepthOptions()).match(pair, probe)) == [(0, (1,)), (1, (4,))]


def test_the_note_gives_both_totals_and_says_when_one_source_block_serves_all(monkeypatch):
    """Depth pairs source blocks 0, 1 and 3 of four: 0.1 + 0.2 + 0.5."""
    given = torch.tensor(
        [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.9, 0.8, 0.7], [0.4, 0.4, 0.5]], dtype=torch.float64
    )
    monkeypatch.setattr("pktkit_latent.matchers.affinity.affinity_matrix", lambda *a, **k: given)
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    found = AffinityMatcher(AffinityOptions()).match(pair, probe)
    assert links(found) == [(0, (2,)), (1, (2,)), (2, (2,))]
    assert "sums to 2.400, by depth to 0.800" in found.note
    assert "source block 2 serves every target block; option strict" in found.note
    strict = AffinityMatcher(AffinityOptions(strict=True)).match(pair, probe)
    assert links(strict) == [(0, (1,)), (1, (2,)), (2, (3,))]
    assert "sums to 1.600" in strict.note and "serves every" not in strict.note


def test_strict_affinity_uses_no_source_block_twice_where_it_can():
    pair = pair_of("gemma")
    probe = Probe(pair, word_task())
    found = AffinityMatcher(AffinityOptions(strict=True)).match(pair, probe)
    assert len(found.used_source_blocks) == 3
    deeper = pair_of("gemma", source={"blocks": 2}, target={"blocks": 3})
    found = AffinityMatcher(AffinityOptions(strict=True)).match(deeper, Probe(deeper, word_task()))
    assert "not strict: 2 source blocks for 3 target blocks" in found.note


def test_bf16_states_and_gradients_are_matched():
    pair = pair_of("llama")
    pair.source.model.bfloat16()
    pair.target.model.bfloat16()
    probe = Probe(pair, word_task())
    for matcher, options in ONE_SOURCE_EACH:
        assert len(matcher(options()).match(pair, probe).links) == 3


def test_affinity_refuses_what_it_cannot_compare():
    pair = pair_of("llama")
    with pytest.raises(UsageError, match=r"3 supervised tokens; .* at least 4"):
        AffinityMatcher(AffinityOptions()).match(pair, Probe(pair, word_task(1)))
    with torch.no_grad():
        pair.target.anatomy.blocks[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match="target block 1"):
        AffinityMatcher(AffinityOptions()).match(pair, Probe(pair, word_task()))


def test_affinity_compares_models_with_different_tokenizers():
    other = tiny_loaded("llama", seed=3, width=48, heads=6, kv_heads=3, vocab=59)
    foreign = ModelPair(other, pair_of("llama").target)
    found = AffinityMatcher(AffinityOptions()).match(foreign, Probe(foreign, word_task()))
    assert [link.target for link in found.links] == [0, 1, 2]


# --- Fisher information ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_fisher_reading_matches_autograd(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task(3))
    fisher, attribution = probe.fisher(), probe.attribution()
    assert fisher.shape == (3, 4) and fisher.dtype == torch.float64
    model = pair.source.model.requires_grad_(True)
    for row, item in enumerate(probe.encoded("extract").items):
        ids = torch.tensor([item.input_ids])
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        for state in output.hidden_states:
            state.retain_grad()
        labels = ids[0, item.supervised :]
        torch.nn.functional.cross_entropy(
            output.logits[0, item.supervised - 1 : -1], labels
        ).backward()
        inner = output.hidden_states[1:-1]
        theirs = torch.stack([(h.grad * h).square().sum().detach().double() for h in inner])
        torch.testing.assert_close(fisher[row, : len(inner)], theirs, rtol=1e-3, atol=1e-10)
        # The square of a sum is at most the sum of squares times the number of terms.
        terms = ids.numel() * pair.source.anatomy.width
        assert bool((attribution[row].double().square() <= terms * fisher[row]).all())


def test_fisher_does_not_cancel_what_attribution_cancels():
    """Block 1 pushes two items in opposite directions: attribution sees nothing there."""
    pair = pair_of("llama", target={"blocks": 1})
    probe = GivenGradients([[1.0, 5.0, 0.5, 0.2], [1.0, -5.0, 0.5, 0.1]])
    assert FisherMatcher(FisherOptions()).match(pair, probe).used_source_blocks == (1,)
    assert AttributionMatcher(AttributionOptions()).match(pair, probe).used_source_blocks == (0,)


def test_fisher_keeps_the_largest_in_order():
    pair = pair_of("llama")
    found = FisherMatcher(FisherOptions()).match(pair, GivenGradients([[3.0, 1.0, 5.0, 1.0]]))
    assert links(found) == [(0, (0,)), (1, (1,)), (2, (2,))]
    found = FisherMatcher(FisherOptions()).match(pair, GivenGradients([[0.0, 1.0, 5.0, 2.0]]))
    assert links(found) == [(0, (1,)), (1, (2,)), (2, (3,))]
    assert found.method == "fisher" and not found.note
    assert found.scores == (0.0, 1.0, 5.0, 2.0)


def test_a_source_with_nothing_to_leave_out_is_paired_by_depth():
    pair = pair_of("llama", source={"blocks": 2})
    found = FisherMatcher(FisherOptions()).match(pair, GivenGradients([[1.0, 2.0]]))
    assert found.links == DepthMatcher(DepthOptions()).match(pair, None).links
    assert "2 blocks for 3" in found.note and found.method == "fisher (fallback: depth)"


def test_a_source_without_gradients_is_paired_by_depth_and_a_saturated_one_only_noted():
    pair = pair_of("llama")
    nothing = FisherMatcher(FisherOptions()).match(pair, GivenGradients([[0.0] * 4], loss=0.0))
    assert nothing.links == DepthMatcher(DepthOptions()).match(pair, None).links
    assert "zero on every item" in nothing.note
    probe = GivenGradients([[0.0, 1.0, 5.0, 2.0]], loss=0.003)
    with capture_logs() as logs:
        found = FisherMatcher(FisherOptions()).match(pair, probe)
    assert found.used_source_blocks == (1, 2, 3) and found.method == "fisher"
    assert "0.0030 nats" in found.note and len(logs) == 1

"""Laws of the fitted aligners, of placebos and of map files, on given states and on tiny pairs."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from tiny_transfers import SOURCE, layer_map, pair_of, same_bits, snapshot, word_task

from pktkit.errors import (
    DoesNotFitError,
    NonFiniteError,
    PairIncompatibleError,
    UsageError,
)
from pktkit.families import Anatomy
from pktkit.moments import PANEL, Moments, grouped, stream_moments
from pktkit.options import build_options
from pktkit.pair import LoadedModel, ModelPair
from pktkit.paired import PairedStates
from pktkit.probe import Probe, ProbeSettings, ReadingCache
from pktkit.state_maps import AffineMap, Readout, identity
from pktkit.tasks.base import SPLITS, Item
from pktkit.testing import tiny_loaded, tiny_model, tiny_tokenizer
from pktkit.values import Interface, LayerLink, LayerMap, Origin, Space, TargetStates
from pktkit_latent import maps as vocabulary_maps
from pktkit_latent.aligners import (
    CcaAligner,
    HintAligner,
    MapFileAligner,
    ProcrustesAligner,
    RelationAligner,
    RidgeAligner,
    SelfAnchor,
    SemanticAligner,
)
from pktkit_latent.aligners.cca import cca_map
from pktkit_latent.aligners.figures import explained
from pktkit_latent.aligners.fitting import right_positions
from pktkit_latent.aligners.placebo import random_maps
from pktkit_latent.aligners.procrustes import procrustes_map
from pktkit_latent.aligners.ridge import ridge_map
from pktkit_latent.aligners.semantic import aligned_heads
from pktkit_latent.map_files import load_maps, save_maps

FEW = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 2**31)
FITTED = {"ridge": RidgeAligner, "procrustes": ProcrustesAligner, "cca": CcaAligner}
ALL = FITTED | {
    "semantic": SemanticAligner,
    "hint": HintAligner,
    "relation": RelationAligner,
    "self": SelfAnchor,
}
TOLERANCE: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8}

FITS = {
    "ridge": lambda m: ridge_map(m, 1e-2),
    "procrustes": lambda m: procrustes_map(m, "fitted")[0],
    "cca": lambda m: cca_map(m, variance=1.0, rank=None, shrinkage=1e-2)[0],
}


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def rotation(width: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(drawn(seed, width, width))[0]


def related(seed: int, tokens: int, d_source: int, d_target: int) -> tuple[torch.Tensor, ...]:
    """Correlated states of two widths, with means."""
    source = drawn(seed, tokens, d_source) + drawn(seed + 1, d_source)
    noise = 0.3 * drawn(seed + 2, tokens, d_target)
    return source, source @ drawn(seed + 3, d_source, d_target) + noise + 2.0


class Given:
    """Stands in for `PairedStates`: states in memory, in chunks of given sizes."""

    split = "given"

    def __init__(self, source: dict, target: dict, cuts: list[int]) -> None:
        self.source, self.target, self.cuts = source, target, cuts
        widths = [next(iter(side.values())).shape[1] for side in (source, target)]
        models = [SimpleNamespace(anatomy=SimpleNamespace(width=width)) for width in widths]
        pair = SimpleNamespace(source=models[0], target=models[1])
        self.probe = SimpleNamespace(pair=pair)

    def chunks(self, links: LayerMap):
        tokens = len(next(iter(self.target.values())))
        borders = sorted({0, tokens, *(cut % tokens for cut in self.cuts)})
        mixing = TargetStates(
            {link.target: identity for link in links.links}, links, Interface.RESIDUAL
        )
        for start, stop in itertools.pairwise(borders):
            part = {block: states[start:stop] for block, states in self.source.items()}
            yield (
                {block: mixing.states(block, part) for block in mixing.blocks},
                {block: self.target[block][start:stop] for block in mixing.blocks},
            )


def one_link() -> LayerMap:
    return LayerMap([LayerLink(0, (0,))], 1, 1, "given")


def moments(source: torch.Tensor, target: torch.Tensor, cuts: tuple[int, ...] = ()) -> Moments:
    states = Given({0: source}, {0: target}, list(cuts))
    ((_, found),) = stream_moments(states, one_link(), source=True, target=True)
    return found


def covariance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left - left.mean(0)).T @ (right - right.mean(0)) / len(left)


# Streamed moments


@FEW
@given(
    seed=SEEDS,
    tokens=st.integers(2, 60),
    cuts=st.lists(st.integers(0, 1000), max_size=6),
    shift=st.sampled_from([0.0, 1e6]),
)
def test_streamed_moments_equal_direct_ones_however_tokens_are_cut(seed, tokens, cuts, shift):
    source, target = related(seed, tokens, 5, 3)
    found = moments(source + shift, target - shift, tuple(cuts))
    assert found.count == tokens
    # A shift of 1e6 would cost twelve digits in a difference of raw second moments.
    tolerance = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(found.mean_source, source.mean(0) + shift, **tolerance)
    torch.testing.assert_close(found.mean_target, target.mean(0) - shift, **tolerance)
    torch.testing.assert_close(found.source, covariance(source, source), **tolerance)
    torch.testing.assert_close(found.target, covariance(target, target), **tolerance)
    torch.testing.assert_close(found.cross, covariance(target, source), **tolerance)


def test_covariances_wider_than_a_panel_are_whole():
    source, target = related(0, 40, PANEL + 70, 3)
    found = moments(source, target, (17,))
    torch.testing.assert_close(found.source, covariance(source, source))
    assert torch.equal(found.source, found.source.T)


@FEW
@given(seed=SEEDS, at_once=st.integers(1, 5))
def test_groups_within_a_byte_limit_change_nothing(seed, at_once):
    links = LayerMap(
        [
            LayerLink(0, (0,)),
            LayerLink(1, (0,)),
            LayerLink(2, (1, 2), (0.25, 0.75)),
            LayerLink(3, (2,)),
            LayerLink(4, (1, 2), (0.25, 0.75)),
        ],
        3,
        5,
        "given",
    )
    sources = {block: drawn(seed + block, 30, 4) for block in range(3)}
    targets = {block: drawn(seed + 10 + block, 30, 3) for block in range(5)}
    states = Given(sources, targets, [7, 19])
    together = dict(stream_moments(states, links, source=True, target=True))
    one = 8 * (3 * 4 + 3 * 3 + 4 * 4)
    apart = dict(stream_moments(states, links, source=True, target=True, max_bytes=at_once * one))
    assert list(apart) == list(links.links)
    for link, found in apart.items():
        for name in ("cross", "source", "target", "mean_source", "mean_target"):
            assert torch.equal(getattr(found, name), getattr(together[link], name)), name
    mixed = 0.25 * sources[1] + 0.75 * sources[2]
    torch.testing.assert_close(together[links.links[2]].source, covariance(mixed, mixed))


@given(
    sources=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    max_bytes=st.integers(3000, 20_000),
    source=st.booleans(),
)
def test_no_group_needs_more_than_the_limit(sources, max_bytes, source):
    links = tuple(LayerLink(block, (index,)) for block, index in enumerate(sources))
    groups = grouped(
        links, width_source=10, width_target=9, source=source, target=True, max_bytes=max_bytes
    )
    assert tuple(link for group in groups for link in group) == links
    for group in groups:
        mixtures = {link.sources for link in group} if source else set()
        assert 8 * (len(group) * (90 + 81) + len(mixtures) * 100) <= max_bytes


def test_one_link_beyond_the_limit_is_refused_with_figures():
    with pytest.raises(DoesNotFitError, match=r"1024 → 512.*12\.0 MiB.*1\.0 MiB.*12582912"):
        grouped(
            [LayerLink(0, (0,))],
            width_source=1024,
            width_target=512,
            source=True,
            target=False,
            max_bytes=1 << 20,
        )


# The three fits


def test_ridge_by_hand():
    """x = 0, 1, 2 and y = 2 x + 1: with penalty p the slope is 2 / (1 + p)."""
    source = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    fitted = ridge_map(moments(source, 2 * source + 1), 0.25)
    torch.testing.assert_close(fitted(source), torch.tensor([[1.4], [3.0], [4.6]]).double())


@FEW
@given(seed=SEEDS, penalty=st.sampled_from([1e-6, 1e-2, 1.0]), tokens=st.integers(3, 40))
def test_ridge_is_least_squares_with_rows_for_the_penalty(seed, penalty, tokens):
    source, target = related(seed, tokens, 5, 3)
    left, right = source - source.mean(0), target - target.mean(0)
    weight = (penalty * left.square().sum() / 5) ** 0.5
    stacked = torch.cat([left, weight * torch.eye(5, dtype=torch.float64)])
    wanted = torch.cat([right, torch.zeros(5, 3, dtype=torch.float64)])
    solution = torch.linalg.lstsq(stacked, wanted).solution
    fitted = ridge_map(moments(source, target), penalty)
    torch.testing.assert_close(fitted(source), left @ solution + target.mean(0), **TOLERANCE)


def test_ridge_without_penalty_and_with_few_tokens_has_least_norm():
    source, target = related(3, 4, 9, 2)
    fitted = ridge_map(moments(source, target), 0.0)
    left, right = source - source.mean(0), target - target.mean(0)
    torch.testing.assert_close(fitted.matrix, (torch.linalg.pinv(left) @ right).T, **TOLERANCE)


@FEW
@given(seed=SEEDS, width=st.integers(2, 8))
def test_procrustes_is_scipys_where_widths_are_equal(seed, width):
    source, target = related(seed, 40, width, width)
    found, kept = procrustes_map(moments(source, target), "none")
    left, right = source - source.mean(0), target - target.mean(0)
    expected, total = orthogonal_procrustes(left.numpy(), right.numpy())
    assert kept == width
    torch.testing.assert_close(found.matrix, torch.from_numpy(expected).T, **TOLERANCE)
    scaled, _ = procrustes_map(moments(source, target), "fitted")
    factor = total / float(left.square().sum())
    torch.testing.assert_close(scaled.matrix, factor * found.matrix, **TOLERANCE)


@FEW
@given(seed=SEEDS, d_source=st.integers(1, 8), d_target=st.integers(1, 8))
def test_procrustes_is_semi_orthogonal_and_its_scale_is_the_best(seed, d_source, d_target):
    source, target = related(seed, 40, d_source, d_target)
    found, kept = procrustes_map(moments(source, target), "none")
    matrix = found.matrix if d_target <= d_source else found.matrix.T
    assert kept == len(matrix)
    torch.testing.assert_close(
        matrix @ matrix.T, torch.eye(len(matrix), dtype=torch.float64), **TOLERANCE
    )
    scaled, _ = procrustes_map(moments(source, target), "fitted")

    def missed(factor: float) -> float:
        mapped = attrs.evolve(scaled, matrix=factor * scaled.matrix)
        return float((mapped(source) - target).square().sum())

    assert missed(1.0) <= min(missed(0.99), missed(1.01)) + 1e-9


@FEW
@given(seed=SEEDS, d_source=st.integers(2, 6), d_target=st.integers(2, 6))
def test_plain_cca_is_least_squares_with_the_correlations_of_orthonormal_bases(
    seed, d_source, d_target
):
    source, target = related(seed, 60, d_source, d_target)
    found, correlations = cca_map(moments(source, target), variance=1.0, rank=None, shrinkage=0.0)
    left, right = source - source.mean(0), target - target.mean(0)
    basis_left, basis_right = torch.linalg.qr(left)[0], torch.linalg.qr(right)[0]
    expected = torch.linalg.svdvals(basis_left.T @ basis_right)
    torch.testing.assert_close(correlations, expected.clamp(max=1), rtol=1e-6, atol=1e-8)
    if d_target <= d_source:  # otherwise least squares needs directions beyond the pairs: none are
        solution = torch.linalg.lstsq(left, right).solution
        torch.testing.assert_close(found.matrix, solution.T, rtol=1e-5, atol=1e-6)


@FEW
@given(seed=SEEDS, rank=st.integers(1, 4))
def test_a_map_through_few_directions_has_that_rank(seed, rank):
    source, target = related(seed, 60, 6, 4)
    found, correlations = cca_map(moments(source, target), variance=1.0, rank=rank, shrinkage=0.0)
    assert len(correlations) == rank
    assert int(torch.linalg.matrix_rank(found.matrix)) == rank
    assert torch.equal(correlations, correlations.sort(descending=True).values)


def test_svcca_keeps_the_fewest_directions_that_hold_the_variance():
    """Variances 16, 4 and 1 of 21: one direction holds 76 %, two hold 95 %."""
    basis = torch.linalg.qr(drawn(0, 200, 3) - drawn(0, 200, 3).mean(0))[0]
    source = basis * torch.tensor([4.0, 2.0, 1.0])
    for variance, expected in ((0.7, 1), (0.8, 2), (0.95, 2), (0.96, 3), (1.0, 3)):
        _, correlations = cca_map(
            moments(source, source), variance=variance, rank=None, shrinkage=0.0
        )
        assert len(correlations) == expected, variance


def test_a_rank_beyond_the_data_is_refused_with_figures():
    source, target = related(0, 4, 6, 5)
    with pytest.raises(UsageError, match=r"rank 4 .* 4 tokens .* 3 of 6 .* 3 of 5 .* rank=3"):
        cca_map(moments(source, target), variance=1.0, rank=4, shrinkage=0.0)


IDENTITIES = {
    "ridge": lambda m: ridge_map(m, 1e-10),
    "procrustes": lambda m: procrustes_map(m, "none")[0],
    "procrustes, scaled": lambda m: procrustes_map(m, "fitted")[0],
    "cca": lambda m: cca_map(m, variance=1.0, rank=None, shrinkage=0.0)[0],
}


@pytest.mark.parametrize("name", IDENTITIES)
@FEW
@given(seed=SEEDS, width=st.integers(1, 8))
def test_a_space_aligned_to_itself_is_left_alone(name, seed, width):
    states = drawn(seed, 50, width) + drawn(seed + 1, width)
    fitted = IDENTITIES[name](moments(states, states))
    torch.testing.assert_close(fitted(states), states, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FITS)
@FEW
@given(seed=SEEDS, d_source=st.integers(2, 7), d_target=st.integers(2, 7))
def test_rotations_of_either_space_are_absorbed(name, seed, d_source, d_target):
    source, target = related(seed, 50, d_source, d_target)
    turn, back = rotation(d_source, seed + 5), rotation(d_target, seed + 6)
    plain = FITS[name](moments(source, target))(source)
    turned = FITS[name](moments(source @ turn, target))
    torch.testing.assert_close(turned(source @ turn), plain, **TOLERANCE)
    other = FITS[name](moments(source, target @ back))
    torch.testing.assert_close(other(source), plain @ back, **TOLERANCE)


@pytest.mark.parametrize("name", FITS)
@FEW
@given(seed=SEEDS, scale=st.sampled_from([1e-4, 0.5, 1e4]))
def test_units_of_either_space_are_absorbed(name, seed, scale):
    source, target = related(seed, 50, 6, 4)
    plain = FITS[name](moments(source, target))(source)
    ours = FITS[name](moments(scale * source, target))
    torch.testing.assert_close(ours(scale * source), plain, **TOLERANCE)
    theirs = FITS[name](moments(source, scale * target))
    torch.testing.assert_close(theirs(source) / scale, plain, **TOLERANCE)


@pytest.mark.parametrize("name", FITS)
@FEW
@given(seed=SEEDS, shift=st.floats(-50, 50))
def test_a_shift_of_either_space_is_absorbed(name, seed, shift):
    source, target = related(seed, 50, 6, 4)
    plain = FITS[name](moments(source, target))(source)
    moved = FITS[name](moments(source + shift, target - shift))
    torch.testing.assert_close(moved(source + shift), plain - shift, **TOLERANCE)


@pytest.mark.parametrize("name", FITS)
@FEW
@given(seed=SEEDS, cuts=st.lists(st.integers(0, 49), max_size=4))
def test_the_order_and_the_chunks_of_tokens_do_not_matter(name, seed, cuts):
    source, target = related(seed, 50, 6, 4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
    plain = FITS[name](moments(source, target))
    permuted = FITS[name](moments(source[order], target[order], tuple(cuts)))
    torch.testing.assert_close(permuted(source), plain(source), **TOLERANCE)


@pytest.mark.parametrize("name", FITS)
@FEW
@given(seed=SEEDS, copies=st.integers(2, 4))
def test_counting_every_token_several_times_changes_nothing(name, seed, copies):
    source, target = related(seed, 30, 5, 4)
    plain = FITS[name](moments(source, target))
    doubled = FITS[name](moments(source.repeat(copies, 1), target.repeat(copies, 1)))
    torch.testing.assert_close(doubled(source), plain(source), **TOLERANCE)


DEGENERATE = {
    "constant source": lambda x, y: (x[:1].expand_as(x), y),
    "constant target": lambda x, y: (x, y[:1].expand_as(y)),
    "both constant": lambda x, y: (x[:1].expand_as(x), y[:1].expand_as(y)),
    "zero states": lambda x, y: (torch.zeros_like(x), torch.zeros_like(y)),
    "one token many times": lambda x, y: (x[:1].repeat(30, 1), y[:1].repeat(30, 1)),
    "fewer tokens than width": lambda x, y: (x[:3], y[:3]),
    "two tokens": lambda x, y: (x[:2], y[:2]),
    "a dead channel": lambda x, y: (x * (torch.arange(6) > 0), y * (torch.arange(4) > 0)),
    "twin channels": lambda x, y: (x[:, [0, 0, 1, 1, 2, 2]], y[:, [0, 0, 1, 1]]),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", [*FITS, "unpenalised", "unshrunk"])
def test_degenerate_states_give_finite_maps(name, case):
    fits = FITS | {
        "unpenalised": lambda m: ridge_map(m, 0.0),
        "unshrunk": lambda m: cca_map(m, variance=1.0, rank=None, shrinkage=0.0)[0],
    }
    source, target = DEGENERATE[case](*related(1, 30, 6, 4))
    fitted = fits[name](moments(source, target))
    mapped = fitted(source)
    assert bool(mapped.isfinite().all())
    if float(source.std(0).max()) == 0 or float(target.std(0).max()) == 0:
        mean = target.mean(0).expand_as(mapped)
        torch.testing.assert_close(mapped, mean, rtol=1e-6, atol=1e-6)


def test_the_share_explained_by_hand():
    own = torch.tensor([[0.0], [2.0]])
    assert explained(own, own) == 1
    assert explained(torch.tensor([[1.0], [1.0]]), own) == 0
    assert explained(torch.tensor([[0.0], [1.0]]), own) == 0.5
    assert explained(torch.ones(2, 1), torch.ones(2, 1)) == 1
    assert explained(torch.zeros(2, 1), torch.ones(2, 1)) == 0


# Placebos


@FEW
@given(seed=SEEDS)
def test_random_maps_keep_norm_mean_and_sharing(seed):
    shared = AffineMap(drawn(-1, 4, 6), normalise=True)
    own = AffineMap(drawn(-2, 4, 6), centre=drawn(-3, 6), offset=drawn(-4, 4))
    found = random_maps({0: shared, 1: own, 2: shared}, seed)
    assert found[0] is found[2]
    for block, given_map in ((0, shared), (1, own)):
        placebo = found[block]
        torch.testing.assert_close(placebo.matrix.norm(), given_map.matrix.norm())
        assert not torch.allclose(placebo.matrix, given_map.matrix)
        assert placebo.normalise == given_map.normalise
        assert placebo.centre is given_map.centre and placebo.offset is given_map.offset
    assert not torch.allclose(found[0].matrix, found[1].matrix)
    again = random_maps({0: shared, 1: own, 2: shared}, seed)
    assert torch.equal(again[1].matrix, found[1].matrix)


@pytest.mark.parametrize("name", ["hint", "relation"])
def test_there_is_no_random_map_where_there_is_no_map(name):
    with pytest.raises(UsageError, match=f"'{name}'.*has no map.*shuffled-items"):
        build_options(ALL[name].Options, {"placebo": "random-map"}, "aligner")


# On tiny pairs


def align(name: str, pair: ModelPair, probe: Probe | None = None, links=None, **options: Any):
    aligner = ALL[name](ALL[name].Options(**options))
    chosen = layer_map(pair, 0, 1, 3) if links is None else links
    return aligner.align(pair, chosen, probe or Probe(pair, word_task()))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "gpt_neox"])
def test_every_aligner_on_every_family(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    before = snapshot(pair.source), snapshot(pair.target)
    states = {block: torch.randn(7, 48) for block in range(4)}
    own = {block: torch.randn(7, 32) for block in range(3)}
    for name in ALL:
        for interface in Interface:
            alignment = align(name, pair, probe, interface=interface)
            aligned = alignment.target_states
            assert aligned.blocks == (0, 1, 2) and aligned.interface is interface
            width = 48 if aligned.space is Space.ORIGIN else 32
            read = own if aligned.origin is Origin.TARGET else states
            for block in aligned.blocks:
                mapped = aligned.states(block, read)
                assert mapped.shape == (7, width) and bool(mapped.isfinite().all())
            json.dumps(alignment.diagnostics, allow_nan=False)
    assert same_bits(pair.source, before[0]) and same_bits(pair.target, before[1])


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_pairs_of_two_families(tied):
    pair = pair_of("llama", "qwen2", source={"tied": tied}, target={"tied": not tied})
    pair.source.model.bfloat16()
    pair.target.model.bfloat16()
    probe = Probe(pair, word_task())
    for name in [*FITTED, "semantic"]:
        aligned = align(name, pair, probe).target_states
        mapped = aligned.states(0, {0: torch.randn(5, 48).bfloat16()})
        assert mapped.dtype == torch.bfloat16 and bool(mapped.isfinite().all())


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_fit_figures_tell_a_fit_from_a_shuffled_control(name):
    """A model aligned to itself explains everything, and another item's states do not."""
    model = tiny_loaded("llama", seed=1, **SOURCE)
    pair = ModelPair(model, model)
    extra: dict[str, Any] = {"map": "lens"} if name == "semantic" else {}
    if name == "ridge":
        extra["penalty"] = 1e-9
    if name == "cca":
        extra["variance"] = 1.0
    links = layer_map(pair, 0, 1, 2, 3)
    probe = Probe(pair, word_task(40))
    alignment = align(name, pair, probe, links, interface=Interface.RESIDUAL, **extra)
    fit = alignment.diagnostics["fit"]
    assert fit["blocks"] == [0, 1, 2, 3] and fit["tokens"] == probe_tokens(probe)
    least = 0.9 if name == "semantic" else 0.999  # states are scaled to unit length there
    assert min(fit["centred_cosine"]) > least
    assert max(fit["centred_cosine_shuffled"]) < 0.8
    if name != "semantic":
        assert min(fit["r2"]) > 0.999


def probe_tokens(probe: Probe) -> int:
    return sum(item.supervised_count for item in probe.encoded("align").items)


def test_hints_learn_a_readout_and_relations_have_none():
    pair = pair_of("llama")
    hint = align("hint", pair).target_states
    assert hint.space is Space.ORIGIN and hint.comparable
    assert dict(hint.readouts) == dict.fromkeys(range(3), Readout(32, 48))
    relation = align("relation", pair).target_states
    assert relation.space is Space.ORIGIN and not relation.comparable
    for aligned in (hint, relation):
        states = {block: torch.randn(4, 48) for block in range(4)}
        assert torch.equal(aligned.states(2, states), states[3])


@pytest.mark.parametrize("name", [*FITTED, "semantic", "hint", "relation"])
def test_shuffled_items_change_what_is_read_and_nothing_else(name):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    right = align(name, pair, probe).target_states
    shuffled = align(name, pair, probe, placebo="shuffled-items").target_states
    assert shuffled.shuffle_items and not right.shuffle_items
    states = {block: torch.randn(4, 48) for block in range(4)}
    for block in right.blocks:
        assert torch.equal(right.states(block, states), shuffled.states(block, states))


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_a_random_map_takes_the_seed_it_is_given(name):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    right = align(name, pair, probe).target_states.maps[1]
    first, again, other = (
        align(name, pair, probe, placebo="random-map", seed=seed).target_states.maps[1]
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.allclose(first.matrix, other.matrix)
    torch.testing.assert_close(first.matrix.norm(), right.matrix.norm())


@pytest.mark.parametrize("name", FITTED)
def test_maps_are_the_same_stored_live_and_again(name):
    pair = pair_of("qwen2")
    links = LayerMap([LayerLink(0, (0, 1), (0.3, 0.7)), LayerLink(2, (3,))], 4, 3, "interpolated")
    stored = align(name, pair, links=links).target_states
    again = align(name, pair, links=links).target_states
    live = Probe(pair, word_task(), settings=ProbeSettings(max_bytes=0, batch_size=2))
    other = align(name, pair, live, links).target_states
    states = {block: torch.randn(5, 48) for block in range(4)}
    for block in (0, 2):
        assert torch.equal(stored.maps[block].matrix, again.maps[block].matrix)
        torch.testing.assert_close(
            stored.states(block, states), other.states(block, states), rtol=1e-2, atol=1e-2
        )


def test_a_fitted_map_is_the_fit_of_all_states_at_once():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    found = align("ridge", pair, probe, penalty=0.1).target_states.maps[2]
    source = probe.states("align", [3]).read(range(6))[3].double()
    target = probe.states("align", [2], origin=Origin.TARGET).read(range(6))[2].double()
    expected = ridge_map(moments(source, target), 0.1)
    torch.testing.assert_close(found.matrix, expected.matrix, **TOLERANCE)
    torch.testing.assert_close(found.offset, target.mean(0), **TOLERANCE)


def greedy_task(pair: ModelPair, rows: int):
    """Items whose first answer token is what the target predicts, so that it gets many right."""
    ids = torch.tensor([[1, 4 + row % 50, 4 + (7 * row) % 53] for row in range(rows)])
    with torch.no_grad():
        best = pair.target.model(input_ids=ids, use_cache=False).logits[:, -1, 4:].argmax(-1)
    items = tuple(
        Item(f"i{row}", f"t{ids[row, 1] - 4} t{ids[row, 2] - 4}", f"t{int(best[row])}")
        for row in range(rows)
    )
    return attrs.evolve(word_task(), splits=dict.fromkeys(SPLITS, items))


def test_fitting_on_what_the_target_gets_right():
    pair = pair_of("llama")
    probe = Probe(pair, greedy_task(pair, 80))
    kept = right_positions(probe, "align")
    assert 32 <= int(kept.sum()) < len(kept)
    found = align("ridge", pair, probe, fit_on="right")
    assert found.diagnostics["tokens"] == int(kept.sum())
    rows = range(len(probe.encoded("align").items))
    source = probe.states("align", [3]).read(rows)[3][kept]
    target = probe.states("align", [2], origin=Origin.TARGET).read(rows)[2][kept]
    expected = ridge_map(moments(source.double(), target.double()), 1e-2)
    torch.testing.assert_close(found.target_states.maps[2].matrix, expected.matrix, **TOLERANCE)


def test_too_few_right_tokens_are_refused_with_figures():
    pair = pair_of("llama")
    with pytest.raises(UsageError, match=r"predicts \d+ of the 18 answer tokens.*at least 32"):
        align("ridge", pair, fit_on="right")


def test_a_rank_beyond_the_align_split_names_the_block():
    with pytest.raises(UsageError, match=r"target block 0: rank 30 .* 18 tokens"):
        align("cca", pair_of("llama"), rank=30)


@pytest.mark.parametrize("side", ["source", "target"])
def test_states_that_are_not_finite_are_refused(side):
    pair = pair_of("llama")
    anatomy = getattr(pair, side).anatomy
    with torch.no_grad():
        anatomy.embedding.weight[:, 3] = float("inf")
    with pytest.raises(NonFiniteError, match=rf"not finite: {side} block.*split 'align'"):
        align("procrustes", pair)


@pytest.mark.parametrize("name", [*FITTED, "semantic", "hint", "relation"])
def test_nothing_to_align_and_foreign_tokenizers_are_refused(name):
    pair = pair_of("llama")
    with pytest.raises(UsageError, match=f"'{name}'.*links none.*matcher"):
        align(name, pair, links=LayerMap((), 4, 3, "none"))
    foreign = ModelPair(tiny_loaded("llama", vocab=59, **SOURCE), pair.target)
    with pytest.raises(PairIncompatibleError, match=r"59.*61"):
        align(name, foreign, Probe(foreign, word_task()))


# Semantic maps: padded rows, and the cache


def test_rows_that_only_pad_the_vocabulary_never_enter():
    models = []
    for seed, rows, sizes in ((1, 64, SOURCE), (2, 80, {"width": 32, "blocks": 3})):
        model = tiny_model("llama", vocab=rows, seed=seed, **sizes)
        models.append(LoadedModel(f"m{seed}", model, tiny_tokenizer(61), Anatomy.of(model)))
    pair = ModelPair(*models)
    heads = aligned_heads(pair, fold_norm=False)
    assert heads.source.shape == (61, 48) and heads.target.shape == (61, 32)
    w_source, w_target = (m.anatomy.head_weight[:61].detach().double() for m in models)
    s_source, s_target = torch.linalg.pinv(w_source), torch.linalg.pinv(w_target)
    normalised = torch.nn.functional.normalize
    expected = normalised(s_target, dim=0) @ normalised(s_source, dim=0).T
    found = align("semantic", pair).target_states.maps[0].matrix
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_a_semantic_map_is_computed_once_per_pair_of_heads(tmp_path, monkeypatch):
    pair = pair_of("llama", source={"tied": False})
    probe = lambda: Probe(pair, word_task(), cache=ReadingCache(tmp_path))  # noqa: E731
    first = align("semantic", pair, probe()).target_states.maps[0].matrix
    calls = []
    monkeypatch.setitem(
        vocabulary_maps.MAPS, "unit", lambda heads: calls.append(1) or first.clone()
    )
    again = align("semantic", pair, probe()).target_states.maps[0].matrix
    assert not calls and torch.equal(first, again)
    align("semantic", pair, probe(), fold_norm=True)
    assert len(calls) == 1, "folding the norm is another map"
    with torch.no_grad():
        pair.source.anatomy.head.weight[5] += 1
    align("semantic", pair, probe())
    assert len(calls) == 2, "another head is another map"


# Map files


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_maps_written_to_a_file_come_back(name, tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    saved = align(name, pair, probe, interface=Interface.RESIDUAL, save=str(path)).target_states
    loaded = load_maps(path)
    assert loaded.aligner == name and loaded.layer_map == saved.layer_map
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    for links in (layer_map(pair, 0, 1, 3), LayerMap((), 4, 3, "none"), layer_map(pair, 0)):
        found = aligner.align(pair, links, probe).target_states
        assert found.interface is Interface.RESIDUAL
        for block in found.blocks:
            states = {source: torch.randn(4, 48) for source in range(4)}
            assert torch.equal(found.states(block, states), saved.states(block, states))
    if name == "semantic":
        assert loaded.maps[0] is loaded.maps[2], "a shared map is stored once"


def test_a_file_holds_the_maps_and_not_their_placebo(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    align("ridge", pair, probe, save=str(path))
    before = path.read_bytes()
    align("ridge", pair, probe, placebo="random-map", seed=1, save=str(path))
    assert path.read_bytes() == before


def test_an_existing_file_is_not_overwritten(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="not overwritten"):
        align("ridge", pair, probe, save=str(path))
    assert path.read_bytes() == b"precious"
    with pytest.raises(UsageError, match="cannot write"):
        align("ridge", pair, probe, save=str(tmp_path / "nowhere" / "maps"))
    assert [file.name for file in tmp_path.iterdir()] == ["maps.safetensors"]


def test_a_file_of_another_pair_is_refused_with_both_hashes(tmp_path):
    pair, other = pair_of("llama"), pair_of("llama", target={"width": 24})
    path = tmp_path / "maps.safetensors"
    align("procrustes", pair, save=str(path))
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    with pytest.raises(
        PairIncompatibleError,
        match=r"target is 'llama' \(weights [0-9a-f]{12}, 32 wide.*weights [0-9a-f]{12}, 24 wide",
    ):
        aligner.align(other, layer_map(other, 0), Probe(other, word_task()))


def test_blocks_that_a_file_lacks_or_maps_otherwise_are_refused(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    align("ridge", pair, probe, layer_map(pair, 0, 1), save=str(path))
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    with pytest.raises(UsageError, match=r"target blocks \[0, 1\].*also links \[2\]"):
        aligner.align(pair, layer_map(pair, 0, 1, 3), probe)
    with pytest.raises(UsageError, match=r"target block 1 .* source blocks \[1\].*reads \[2\]"):
        aligner.align(pair, layer_map(pair, 0, 2), probe)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_damaged_file_is_refused(data, tmp_path_factory):
    pair = ModelPair(*(_small(seed) for seed in (1, 2)))
    path = tmp_path_factory.mktemp("maps") / "maps.safetensors"
    states = TargetStates(
        {0: AffineMap(drawn(0, 8, 8), centre=drawn(1, 8))}, one_link(), Interface.RESIDUAL
    )
    whole = save_maps(path, states, pair, aligner="ridge").read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:position]
    else:
        flipped = whole[position] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = whole[:position] + bytes([flipped]) + whole[position + 1 :]
    path.write_bytes(damaged)
    try:
        found = load_maps(path)
    except UsageError as error:
        assert "map file" in str(error)
    else:  # a letter of a name or hash in the description: the maps themselves are whole
        assert torch.equal(found.maps[0].matrix, states.maps[0].matrix)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(UsageError, match=r"no map file.*'save'"):
        load_maps(tmp_path / "none")


def _small(seed: int) -> LoadedModel:
    return tiny_loaded("llama", seed=seed, width=8, blocks=1, heads=2, kv_heads=1, ffn=8)


def test_states_can_be_paired_only_token_by_token():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    paired = PairedStates(probe, "align", Interface.RESIDUAL)
    links = layer_map(pair, 0, 1, 3)
    assert paired.tokens == probe_tokens(probe)
    ((ours, theirs),) = paired.chunks(links)
    assert {len(states) for states in (*ours.values(), *theirs.values())} == {paired.tokens}
    torch.testing.assert_close(ours[2], probe.states("align", [3]).read(range(6))[3])
    other = dict.fromkeys(range(6), 0)
    ((ours, _),) = paired.chunks(links, rows=[3, 4], others=other)
    first = probe.states("align", [3]).read([0])[3]
    torch.testing.assert_close(ours[2][: len(first)], first)

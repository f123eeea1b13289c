"""Laws of ridge, Procrustes and CCA on given states, and agreement with direct solutions."""

from __future__ import annotations

import attrs
import pytest
import torch
from given_states import (
    ALL,
    FEW,
    FITS,
    SEEDS,
    TOLERANCE,
    drawn,
    moments,
    related,
    rotation,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from pktkit.errors import UsageError
from pktkit.options import build_options
from pktkit.state_maps import AffineMap
from pktkit_latent.aligners.cca import cca_map
from pktkit_latent.aligners.figures import explained
from pktkit_latent.aligners.placebo import random_maps
from pktkit_latent.aligners.procrustes import procrustes_map
from pktkit_latent.aligners.ridge import ridge_map


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

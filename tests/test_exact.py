"""Exact tests, shares of the gap, parts of the variance: against brute force and by law."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special, stats

from pktkit import statistics
from pktkit.statistics.components import degrees_of_freedom

marks = st.sampled_from([-1.0, 0.0, 1.0])
small = st.tuples(st.integers(1, 3), st.integers(1, 9)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=marks)
)


def by_enumeration(difference: np.ndarray) -> float:
    """The share of all sign patterns whose sum is at least as far from 0, by trying them all."""
    sums = difference.sum(axis=0)
    flips = np.array(list(itertools.product([-1.0, 1.0], repeat=len(sums))))
    return float((np.abs(flips @ sums) >= abs(sums.sum()) - 1e-9).mean())


@settings(max_examples=60, deadline=None)
@given(small)
def test_exact_test_is_the_enumeration_of_all_flips(difference: np.ndarray) -> None:
    assert statistics.exact_test(difference).p == pytest.approx(by_enumeration(difference))


@settings(max_examples=40, deadline=None)
@given(small)
def test_exact_test_has_no_sides(difference: np.ndarray) -> None:
    assert statistics.exact_test(-difference) == statistics.exact_test(difference)


def test_one_seed_is_mcnemar_by_hand() -> None:
    """Nine items gained and two lost: 2 (1 + 11 + 55) / 2^11."""
    difference = np.repeat([1.0, -1.0, 0.0], [9, 2, 30])
    result = statistics.exact_test(difference)
    assert result.name == "McNemar"
    assert result.p == pytest.approx(2 * (1 + 11 + 55) / 2**11)
    assert statistics.exact_test(np.zeros((1, 5))).p == 1.0


def test_seeds_that_agree_add_nothing_to_mcnemar() -> None:
    one = np.repeat([[1.0, -1.0, 0.0]], [9, 2, 30], axis=1)
    several = statistics.exact_test(np.repeat(one, 3, axis=0))
    assert several.name == "sign-flip"
    assert several.p == pytest.approx(statistics.exact_test(one).p)


def test_many_items_agree_with_the_normal_limit() -> None:
    difference = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (3, 3000), p=[0.21, 0.55, 0.24])
    sums = difference.sum(axis=0)
    limit = 2 * stats.norm.sf((sums.sum() - 1) / np.sqrt((sums**2).sum()))
    assert statistics.exact_test(difference).p == pytest.approx(limit, rel=0.05)


def test_graded_scores_are_drawn() -> None:
    difference = np.random.default_rng(0).uniform(-0.3, 0.4, (1, 12))
    result = statistics.exact_test(difference, draws=20_000)
    # scipy enumerates all 4096 flips where they are fewer than the draws
    assert result.p == pytest.approx(by_enumeration(difference))
    assert "sign-flip" in result.name


def test_parts_of_the_variance_by_hand() -> None:
    """Seeds 0 and 0.2 apart, items 0 and 0.4 apart, and nothing else."""
    parts = statistics.variance_parts([[0.0, 0.4], [0.2, 0.6]])
    assert parts.noise == pytest.approx(0.0)
    assert parts.seed == pytest.approx(0.2 / 2**0.5)
    assert parts.item == pytest.approx(0.4 / 2**0.5)
    assert parts.seed_error == pytest.approx(0.1)
    assert parts.item_error == pytest.approx(0.2)
    assert parts.error == pytest.approx(0.05**0.5)
    assert parts.scaled(100).item == pytest.approx(40 / 2**0.5)


def test_parts_of_the_variance_find_what_was_put_in() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        seed, item = rng.normal(0, 0.05, (5, 1)), rng.normal(0, 0.3, (1, 80))
        parts = statistics.variance_parts(seed + item + rng.normal(0, 0.2, (5, 80)))
        found.append([parts.seed**2, parts.item**2, parts.noise**2])
    assert np.mean(found, axis=0) == pytest.approx([0.05**2, 0.3**2, 0.2**2], rel=0.1)


def test_one_seed_has_no_variance_of_seeds() -> None:
    parts = statistics.variance_parts([[0.0, 1.0, 1.0, 0.0]])
    assert (parts.seed, parts.noise, parts.seed_error) == (None, None, None)
    assert parts.error == pytest.approx((1 / 3) ** 0.5 / 2)
    assert parts.freedom == 3


@given(st.floats(0, 1e9), st.integers(2, 10), st.integers(11, 1000))
def test_degrees_of_freedom_lie_between_seeds_and_items(ratio, seeds, items) -> None:
    found = degrees_of_freedom(1.0, ratio, seeds, items)
    assert seeds - 1 <= found <= items - 1
    assert degrees_of_freedom(1.0, 0.0, seeds, items) == seeds - 1
    assert degrees_of_freedom(1e-12, 1.0, seeds, items) == items - 1
    assert degrees_of_freedom(0.0, 1.0, seeds, items) == items - 1


@pytest.mark.parametrize(
    ("seeds", "least", "most"), [(3, 95.0, 96.6), (5, 95.0, 96.5), (10, 95.0, 95.8)]
)
def test_coverage_for_normal_data_by_integration(seeds, least, most) -> None:
    """The figures of `degrees_of_freedom`: true coverage for every share of the seeds."""
    degrees = seeds - 1
    quantiles = stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, degrees) / degrees
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98):
        of_seeds, of_items = share * quantiles, 1 - share
        freedom = [degrees_of_freedom(s, of_items, seeds, 10**9) for s in of_seeds]
        critical = special.stdtrit(freedom, 0.975) * np.sqrt(of_seeds + of_items)
        coverage = 100 * np.mean(2 * stats.norm.cdf(critical) - 1)
        assert least - 0.05 <= coverage <= most + 0.05


def rows(rng: np.random.Generator, seeds: int = 3, items: int = 300):
    """Right-or-wrong scores of target, source and a strategy between them."""
    easiness = rng.normal(0, 2, items)
    draw = lambda ability: (rng.random(items) < special.expit(ability + easiness)) * 1.0  # noqa: E731
    return draw(-1)[None], draw(3)[None], np.stack([draw(0.5) for _ in range(seeds)])


def test_share_of_the_target_and_of_the_source() -> None:
    target, source, _ = rows(np.random.default_rng(0))
    none = statistics.share_closed(target - target, source - target)
    whole = statistics.share_closed(source - target, source - target)
    assert none.share == 0.0
    assert whole.share == 1.0
    for found in (none, whole):
        assert found.interval.low < found.share < found.interval.high
        assert found.interval.high - found.interval.low < 0.1


def test_share_of_a_strategy_right_on_every_second_item_gained() -> None:
    source = np.repeat([[0.0, 1.0]], [400, 600], axis=1)
    row = np.tile([[0.0, 1.0]], (3, 500)) * source
    found = statistics.share_closed(row, source)
    assert found.share == pytest.approx(0.5)
    # items of the source alone matter: the deviation of a share of 600
    half = 1.964 * (0.25 / 600) ** 0.5
    assert found.interval.low == pytest.approx(0.5 - half, abs=0.004)
    assert found.interval.high == pytest.approx(0.5 + half, abs=0.004)


@pytest.mark.parametrize("distance", [np.zeros((1, 60)), -np.ones((1, 60)), np.eye(1, 60)])
def test_no_share_of_a_distance_that_is_not_there(distance) -> None:
    row = np.random.default_rng(0).choice([0.0, 1.0], (3, 60))
    assert statistics.share_closed(row, distance) is None


def test_share_needs_one_distance_per_item() -> None:
    with pytest.raises(ValueError, match=r"\[1, 4\]"):
        statistics.share_closed(np.zeros((2, 4)), np.zeros((2, 4)))


def test_share_excludes_0_where_the_difference_does() -> None:
    """By Student's t with the error and freedom of the difference, without any draws."""
    rng = np.random.default_rng(1)
    excluded = 0
    for _ in range(60):
        target, source, row = rows(rng, items=100)
        row = np.where(rng.random(row.shape) < 0.25, row, target)
        share = statistics.share_closed(row - target, source - target)
        parts = statistics.variance_parts(row - target)
        error = max(parts.error, 1.5 / 100)  # one or two items may always differ
        far = abs((row - target).mean()) > special.stdtrit(parts.freedom, 0.975) * error
        assert (0.0 not in share.interval) == far
        excluded += far
    assert 10 < excluded < 50


def test_intervals_of_the_share_hold_the_truth() -> None:
    rng = np.random.default_rng(2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    means = special.expit(np.array([[-1.0], [3.0], [0.5]]) + 2 * nodes) @ weights / weights.sum()
    truth = (means[2] - means[0]) / (means[1] - means[0])
    held = 0
    for _ in range(300):
        target, source, row = rows(rng, items=100)
        held += truth in statistics.share_closed(row - target, source - target).interval
    assert 0.92 <= held / 300 <= 0.99


def test_repeated_runs_by_hand() -> None:
    noise = statistics.repeat_noise([[1, 0, 1, 0], [1, 0, 0, 0]])
    assert (noise.runs, noise.items, noise.differing) == (2, 4, 1)
    assert noise.item_deviation == pytest.approx((0.5 / 4) ** 0.5)
    assert noise.mean_deviation == pytest.approx(0.25 / 2**0.5)
    assert noise.scaled(100).mean_deviation == pytest.approx(25 / 2**0.5)
    same = statistics.repeat_noise(np.ones((3, 5)))
    assert (same.differing, same.item_deviation, same.mean_deviation) == (0, 0.0, 0.0)
    with pytest.raises(ValueError, match="at least two"):
        statistics.repeat_noise([[1, 0]])


@given(st.floats(0.001, 0.5), st.integers(1, 20))
def test_draws_needed_are_the_least_with_which_a_claim_is_possible(alpha, looks) -> None:
    draws = statistics.draws_needed(alpha, looks)
    assert statistics.smallest_adjusted_p(draws, looks) < alpha
    assert statistics.smallest_adjusted_p(draws - 1, looks) >= alpha * (1 - 1e-12)

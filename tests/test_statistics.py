"""Paired statistics: exact small cases, laws, and how often intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pktkit import statistics
from pktkit.statistics import Interval

DRAWS = 399


def shapes(least_items: int = 2) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(1, 4), st.integers(least_items, 12))


differences = shapes().flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.sampled_from([-1.0, -0.5, 0.0, 1.0]))
)
p_lists = st.lists(st.floats(0.0, 1.0), max_size=8)


def normal_sample(
    rng: np.random.Generator, seeds: int, items: int, seed_effect: float, item_effect: float
) -> np.ndarray:
    """Differences with mean 0 and the given deviations of seeds, items and noise 0.4."""
    of_seed = seed_effect * rng.standard_normal((seeds, 1))
    of_item = item_effect * rng.standard_normal((1, items))
    return of_seed + of_item + 0.4 * rng.standard_normal((seeds, items))


@settings(max_examples=25, deadline=None)
@given(differences)
def test_evidence_is_consistent(difference: np.ndarray) -> None:
    evidence = statistics.paired_evidence(difference, n_boot=DRAWS)
    assert evidence.mean == pytest.approx(difference.mean())
    assert -1.0 <= evidence.interval.low <= evidence.interval.high <= 1.0
    assert 0.0 < evidence.p <= 1.0
    if evidence.p < 0.05:
        assert 0.0 not in evidence.interval
    assert evidence.interval == statistics.paired_bootstrap(difference, n_boot=DRAWS)
    assert evidence.p == statistics.paired_p_value(difference, n_boot=DRAWS)
    assert evidence.detectable == statistics.minimum_detectable_effect(difference, n_boot=DRAWS)


@settings(max_examples=25, deadline=None)
@given(differences, st.randoms(use_true_random=False))
def test_order_of_items_does_not_matter(difference: np.ndarray, random) -> None:
    order = list(range(difference.shape[1]))
    random.shuffle(order)
    first = statistics.paired_bootstrap(difference, n_boot=DRAWS)
    second = statistics.paired_bootstrap(difference[:, order], n_boot=DRAWS)
    assert (first.low, first.high) == pytest.approx((second.low, second.high))


@settings(max_examples=25, deadline=None)
@given(differences)
def test_swapping_the_strategies_mirrors_everything(difference: np.ndarray) -> None:
    one = statistics.paired_evidence(difference, n_boot=DRAWS)
    other = statistics.paired_evidence(-difference, n_boot=DRAWS)
    if np.array_equal(np.sort(difference.mean(0)), np.sort(-difference.mean(0))):
        return  # mirrored already: the same draws are used for both, and agree up to their noise
    assert (-other.interval.high, -other.interval.low) == pytest.approx(
        (one.interval.low, one.interval.high)
    )
    assert other.p == one.p


@pytest.mark.parametrize("items", [10, 100, 1000])
@pytest.mark.parametrize("value", [-0.25, 0.0, 0.2])
def test_items_that_all_agree_leave_the_width_of_the_rule_of_three(value, items) -> None:
    """The exact bound for something never seen in n items is `1 - 0.05 ** (1 / n)`, about 3/n."""
    evidence = statistics.paired_evidence(np.full((3, items), value), n_boot=40_000)
    bound = 1 - 0.05 ** (1 / items)
    assert evidence.interval.high - value == pytest.approx(bound, rel=0.1)
    assert value - evidence.interval.low == pytest.approx(bound, rel=0.1)
    assert evidence.detectable > 0
    assert (evidence.p == pytest.approx(1.0, abs=0.02)) == (value == 0.0)


def test_one_item_says_nothing() -> None:
    evidence = statistics.paired_evidence(np.ones((3, 1)), n_boot=DRAWS)
    assert evidence.interval == Interval(-1.0, 1.0)
    assert evidence.p == 1.0


def test_one_seed_agrees_with_students_t_over_items() -> None:
    difference = np.random.default_rng(0).normal(0.05, 0.3, (1, 400))
    half = 1.966 * difference.std(ddof=1) / np.sqrt(400)
    interval = statistics.paired_bootstrap(difference, n_boot=20_000)
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.002)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.002)


def test_seeds_alone_agree_with_students_t_over_seeds() -> None:
    difference = np.repeat([[0.1], [0.2], [0.4]], 50, axis=1)
    half = 4.303 * np.std([0.1, 0.2, 0.4], ddof=1) / np.sqrt(3)
    interval = statistics.paired_bootstrap(difference, n_boot=40_000)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)


def test_few_and_many_distinct_values_draw_from_the_same_distribution() -> None:
    few = np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (1, 300))
    many = few + np.random.default_rng(1).uniform(-1e-6, 1e-6, few.shape)
    one = statistics.paired_bootstrap(few, n_boot=20_000)
    other = statistics.paired_bootstrap(many, n_boot=20_000)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.004)


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


@given(p_lists)
def test_holm_against_its_definition(p_values: list[float]) -> None:
    adjusted = statistics.holm(p_values)
    ordered = sorted(p_values)
    for p, corrected in zip(p_values, adjusted, strict=True):
        at = ordered.index(p)
        brute = max(min(1.0, (len(ordered) - i) * ordered[i]) for i in range(at + 1))
        assert corrected >= brute - 1e-12
        assert p <= corrected <= 1.0
    by_p = [corrected for _, corrected in sorted(zip(p_values, adjusted, strict=True))]
    assert by_p == sorted(by_p)


@given(
    shapes(1).flatmap(
        lambda s: st.tuples(*2 * [hnp.arrays(np.float64, s, elements=st.sampled_from([0.0, 1.0]))])
    )
)
def test_lost_and_gained_by_counting(pair: tuple[np.ndarray, np.ndarray]) -> None:
    base, row = pair
    seeds, items = base.shape
    both = [(base[s, i], row[s, i]) for s in range(seeds) for i in range(items)]
    assert statistics.lost(base, row) == pytest.approx(both.count((1.0, 0.0)) / seeds)
    assert statistics.gained(base, row) == pytest.approx(both.count((0.0, 1.0)) / seeds)
    net = statistics.gained(base, row) - statistics.lost(base, row)
    assert net == pytest.approx(items * (row - base).mean())


def test_lost_broadcasts_a_row_without_seeds() -> None:
    assert statistics.lost([1, 1, 0], [[0, 1, 0], [0, 0, 1]]) == 1.5


def test_mean_and_deviation() -> None:
    assert statistics.mean_and_deviation([[1, 0], [1, 1]]) == pytest.approx((0.75, 0.5**0.5 / 2))
    assert statistics.mean_and_deviation([[1, 0]]) == (0.5, None)


@pytest.mark.parametrize("bad", [[], [[0.0, float("nan")]], np.zeros((1, 1, 1))])
def test_bad_differences_are_refused(bad) -> None:
    with pytest.raises(ValueError, match="difference"):
        statistics.paired_bootstrap(bad)


def test_more_items_detect_less() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.choice([-1.0, 0.0, 1.0], (1, n)) for n in (100, 1000))
    effect = statistics.minimum_detectable_effect(small)
    assert statistics.minimum_detectable_effect(large) < effect
    assert statistics.minimum_detectable_effect(small, alpha=0.01) > effect
    expected = (1.98 + 0.85) * small.std(ddof=1) / 10
    assert effect == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("seed_effect", "item_effect"), [(0.0, 0.5), (0.03, 0.5), (0.1, 0.5), (0.0, 0.0), (0.05, 0.0)]
)
def test_intervals_of_three_seeds_hold_the_truth(seed_effect: float, item_effect: float) -> None:
    """A small version of benchmarks/statistics_simulation.py: 95 % within simulation error."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        difference = normal_sample(rng, 3, 60, seed_effect, item_effect).clip(-1.0, 1.0)
        held += 0.0 in statistics.paired_bootstrap(difference, n_boot=DRAWS)
    assert held / 300 >= 0.92


def test_holm_keeps_false_claims_rare() -> None:
    rng = np.random.default_rng(4)
    false = 0
    for _ in range(150):
        reference = normal_sample(rng, 3, 60, 0.05, 0.0)
        rows = [normal_sample(rng, 3, 60, 0.05, 0.0) - reference for _ in range(3)]
        p_values = [statistics.paired_p_value(row.clip(-1, 1), n_boot=DRAWS) for row in rows]
        false += min(statistics.holm(p_values)) < 0.05
    assert false / 150 <= 0.05 + 3 * (0.05 * 0.95 / 150) ** 0.5

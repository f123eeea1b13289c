"""pass@k equals the share of k-subsets with a right answer, counted one by one."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.errors import UsageError
from pktkit_benchmarks.pass_at_k import pass_at_k


@given(st.integers(1, 9), st.data())
@settings(max_examples=60)
def test_equals_brute_force(samples: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(1, samples))
    right = set(range(correct))
    subsets = list(combinations(range(samples), k))
    share = sum(bool(right & set(subset)) for subset in subsets) / len(subsets)
    assert pass_at_k(samples, correct, k) == pytest.approx(share, abs=1e-12)


def test_known_values() -> None:
    assert pass_at_k(20, 5, 1) == pytest.approx(0.25)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)
    assert pass_at_k(10**6, 1, 10**5) == pytest.approx(0.1)
    assert pass_at_k(200, 0, 100) == 0.0 and pass_at_k(200, 150, 100) == 1.0


def test_the_estimate_is_unbiased() -> None:
    p, samples, k = 0.3, 8, 3
    from math import comb

    mean = sum(
        comb(samples, c) * p**c * (1 - p) ** (samples - c) * pass_at_k(samples, c, k)
        for c in range(samples + 1)
    )
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(UsageError, match="pass@"):
        pass_at_k(n, c, k)

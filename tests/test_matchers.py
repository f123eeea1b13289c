"""Layer pairing by depth and by attribution."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pktkit_latent.matchers import first_reaching, paired_source

depths = st.integers(1, 120)


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

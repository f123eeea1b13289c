"""Windows and picks: the best place is found exactly, and the first one wins ties."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.errors import NonFiniteError, UsageError
from pktkit_seeking import search
from pktkit_seeking.picks import NOTHING, Picks, marginals, rowcol_picks, top
from pktkit_seeking.window import best_window, random_window


def brute_force(scores, height, width):
    """Sum every window exactly; the first of the largest wins."""
    rows, columns = len(scores), len(scores[0])
    best, place = None, None
    for i, j in itertools.product(range(rows - height + 1), range(columns - width + 1)):
        total = sum(Fraction(x) for line in scores[i : i + height] for x in line[j : j + width])
        if best is None or total > best:
            best, place = total, (i, j)
    return place


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


def looped(scores, height, width):
    """Evaluate every position in Python over an fp64 summed-area table; strictly larger wins."""
    table = torch.nn.functional.pad(scores.double().cumsum(0).cumsum(1), (1, 0, 1, 0)).numpy()
    best, place = -1.0, None
    for i in range(table.shape[0] - height):
        for j in range(table.shape[1] - width):
            total = table[i + height, j + width] - table[i, j + width]
            total = total - table[i + height, j] + table[i, j]
            if total > best:
                best, place = total, (i, j)
    return place


@pytest.mark.parametrize("shape", [(60, 70), (20, 75), (1, 1), (61, 5), (61, 80)])
@pytest.mark.parametrize("heavy_tailed", [False, True])
def test_search_equals_a_loop_over_a_summed_area_table(shape, heavy_tailed):
    generator = torch.Generator().manual_seed(sum(shape))
    scores = torch.rand(61, 80, generator=generator)
    if heavy_tailed:
        scores = (torch.randn(61, 80, generator=generator) * 3).exp()
    window = best_window(scores, shape)
    assert (window.row, window.column) == looped(scores, *shape)
    total = float(scores.double().sum())
    assert search.largest_by_far(scores, shape, (1, 1), total) == (window.row, window.column)
    assert search.first_of_largest(scores, shape, (1, 1), total) == (window.row, window.column)


def test_rounded_sums_leave_what_they_cannot_tell_to_integers():
    one = torch.zeros(6, 9)
    one[2, 3] = 1.0
    assert search.largest_by_far(one, (1, 1), (1, 1), 1.0) == (2, 3)
    assert search.largest_by_far(one, (1, 2), (1, 1), 1.0) is None
    assert search.largest_by_far(one, (2, 1), (1, 1), 1.0) is None
    assert search.first_of_largest(one, (2, 2), (1, 1), 1.0) == (1, 2)
    close = torch.full((1, 9), 1.0, dtype=torch.float64)
    close[0, 4] += 2**-50
    assert search.largest_by_far(close, (1, 1), (1, 1), 9.0) is None
    assert search.first_of_largest(close, (1, 1), (1, 1), 9.0) == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_keep_their_bits(dtype):
    scores = torch.rand(12, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = scores.clone()
    best_window(scores, (4, 3))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("band", [1, 50, 10_000])
def test_bands_do_not_change_the_choice(monkeypatch, band):
    scores = torch.rand(40, 33, generator=torch.Generator().manual_seed(3))
    monkeypatch.setattr(search, "BAND", band)
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


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_offsets_kept_to_steps_equal_brute_force_over_them(data):
    rows, columns = data.draw(st.integers(2, 9)), data.draw(st.integers(2, 9))
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    steps = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    scores = torch.randint(0, 3, (rows, columns), generator=torch.Generator().manual_seed(rows))
    best = max(
        (
            (int(scores[i : i + height, j : j + width].sum()), -i, -j)
            for i in range(0, rows - height + 1, steps[0])
            for j in range(0, columns - width + 1, steps[1])
        ),
    )
    window = best_window(scores.float(), (height, width), steps=steps)
    assert (window.row, window.column) == (-best[1], -best[2])


# --- rows and columns ----------------------------------------------------------------------


def test_rowcol_of_a_hand_computed_matrix():
    scores = torch.tensor(
        [[1.0, 0, 4, 0], [0, 0, 1, 0], [3, 1, 2, 0]]
    )  # rows 5 1 6, columns 4 1 7 0
    picks = rowcol_picks(scores, (2, 2))
    assert picks.rows.tolist() == [0, 2] and picks.columns.tolist() == [0, 2]
    assert picks.share == pytest.approx(10 / 12)
    assert picks.cut(scores, (2, 2)).tolist() == [[1, 4], [3, 2]]
    assert picks.described() == {"rows": 2, "columns": 2, "share": picks.share}


def test_rowcol_keeps_order_and_lower_indices_and_pads():
    assert top(torch.tensor([1.0, 2, 2, 2]), 2).tolist() == [1, 2]
    assert top(torch.tensor([5.0, 1, 7]), 9).tolist() == [0, 1, 2]
    picks = rowcol_picks(torch.tensor([[1.0, 2], [3, 4]]), (3, 1))
    assert picks.rows.tolist() == [0, 1, NOTHING] and picks.columns.tolist() == [1]
    assert picks.cut(torch.tensor([[1.0, 2], [3, 4]]), (3, 1)).tolist() == [[2], [4], [0]]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_rowcol_beats_every_other_row_in_its_own_sum(rows, columns, data):
    scores = torch.rand(rows, columns, generator=torch.Generator().manual_seed(7 * rows + columns))
    shape = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    picks = rowcol_picks(scores, shape)
    for indices, sums in zip((picks.rows, picks.columns), marginals(scores), strict=True):
        kept = indices.tolist()
        assert kept == sorted(set(kept))
        left = [float(s) for i, s in enumerate(sums) if i not in kept]
        assert min(float(sums[i]) for i in kept) >= max(left, default=0.0)
    assert picks.share == pytest.approx(
        float(scores[picks.rows][:, picks.columns].sum() / scores.sum()), rel=1e-5
    )


def test_marginals_do_not_depend_on_bands(monkeypatch):
    scores = torch.rand(13, 6, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr("pktkit_seeking.picks.BAND", 20)
    for found, expected in zip(marginals(scores), (scores.sum(1), scores.sum(0)), strict=True):
        assert torch.allclose(found.float(), expected)


def test_picks_refuse_scores_that_are_not_finite():
    bad = torch.tensor([[1.0, float("nan")]])
    with pytest.raises(NonFiniteError):
        rowcol_picks(bad, (1, 1))
    with pytest.raises(NonFiniteError):
        Picks.of(bad, torch.tensor([0]), torch.tensor([0]))

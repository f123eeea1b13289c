"""Parts of a comparison: each cell in one of them, every strategy spread over all."""

from __future__ import annotations

from collections import Counter

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.cli import main
from pktkit.compare.parts import Part
from pktkit.errors import UsageError
from pktkit.outcomes import CellKey

NAMES = ("kd", "latent", "seeking", "sft", "target")


def cells_of(strategies, tasks, seeds):
    return [CellKey(s, t, seed) for t in tasks for seed in range(seeds) for s in strategies]


@settings(max_examples=60, deadline=None)
@given(
    strategies=st.sets(st.sampled_from(NAMES), min_size=1).map(sorted),
    tasks=st.integers(1, 3),
    seeds=st.integers(1, 4),
    data=st.data(),
)
def test_parts_are_a_partition_that_is_even_per_strategy(strategies, tasks, seeds, data):
    cells = cells_of(strategies, [f"task{i}" for i in range(tasks)], seeds)
    of = data.draw(st.integers(1, len(cells)))
    parts = [Part.parse(f"{number}/{of}", cells).cells for number in range(1, of + 1)]
    assert Counter(cell for part in parts for cell in part) == Counter(cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for strategy in strategies:
        counts = [sum(cell.strategy == strategy for cell in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    for part in parts:
        assert list(part) == sorted(part, key=cells.index)


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "a/b", "-1/4", "1/4/2", "1.0/2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError, match="--cell must be i/n"):
        Part.parse(text, cells_of(["sft"], ["t"], 9))


def test_an_empty_part_is_refused():
    with pytest.raises(UsageError, match="has 2 cells, so this part has none"):
        Part.parse("3/3", cells_of(["sft"], ["t"], 2))


def test_a_part_is_refused_before_a_model_is_loaded(tmp_path):
    given = ["compare", "--strategies", "naive", "--out", str(tmp_path / "run"), "--cell", "5/4"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2 and "--cell must be i/n" in result.stderr
    assert not (tmp_path / "run").exists()

"""Points of a curve: in keys, in plans, in summaries, in the run folder."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import ROLES, cell

from pktkit.budget import Budget
from pktkit.compare.plan import PairSpec, Plan
from pktkit.components import Choice, Strategy
from pktkit.errors import UsageError
from pktkit.outcomes import CellKey
from pktkit.points import FIELDS, budget_at, place, point, point_fields
from pktkit.report import RunDirectory, render, summarise

POINTS = st.dictionaries(st.sampled_from(FIELDS), st.integers(1, 10**6))


@given(POINTS)
def test_a_point_reads_back_and_sets_its_fields_only(fields) -> None:
    text = point(**fields)
    assert point_fields(text) == fields
    changed = budget_at(Budget(), text)
    assert attrs.asdict(changed) == attrs.asdict(Budget()) | fields
    assert (place("arith", text) == "arith") == (not fields)


@pytest.mark.parametrize("text", ["rows", "rows=x", "rows=0", "lr=3", "rows=1,rows"])
def test_what_is_no_point_is_refused(text) -> None:
    with pytest.raises(UsageError, match="point of a curve"):
        budget_at(Budget(), text)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(POINTS.map(lambda fields: point(**fields)), min_size=1, max_size=4, unique=True),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_every_point_is_enumerated_once(points, seeds, tasks) -> None:
    plan = Plan(
        PairSpec("a", "b"),
        strategies=(Strategy("target", role="target"), Strategy("m", injector=Choice("x"))),
        tasks=tuple(f"t{i}" for i in range(tasks)),
        seeds=tuple(range(seeds)),
        points=tuple(points),
    )
    cells = plan.cells()
    assert len(set(cells)) == len(cells) == tasks * (1 + seeds * len(points))
    assert [key.point for key in cells if key.strategy == "target"] == [""] * tasks
    for text in points:
        here = [key for key in cells if key.strategy == "m" and key.point == text]
        assert {(k.task, k.seed) for k in here} == {(t, s) for t in plan.tasks for s in plan.seeds}


def at(text, **given):
    one = cell(**given)
    return attrs.evolve(one, key=attrs.evolve(one.key, point=text))


def curve_cells():
    cells = [cell("target", 10), cell("source", 55)]
    for seed in range(3):
        for text, right in (("rows=16", 20), ("rows=64", 40)):
            cells.append(at(text, strategy="latent", right=right + seed, seed=seed))
            cells.append(at(text, strategy="sft", right=right - 5, seed=seed))
    return cells


def test_a_comparison_per_point_shares_the_untouched_models() -> None:
    roles = {name: role for name, role in ROLES.items() if name not in ("naive", "random")}
    summary = summarise(curve_cells(), roles=roles, n_boot=199)
    assert [c.name for c in summary.comparisons] == ["arith at rows=16", "arith at rows=64"]
    for comparison, mean in zip(summary.comparisons, (35.0, 68.3), strict=True):
        assert {row.strategy for row in comparison.rows} == set(roles)
        assert comparison.row("target").mean == pytest.approx(100 / 6)
        assert comparison.row("latent").mean == pytest.approx(mean, abs=0.1)
    assert set(json.loads(render(summary, "json"))["scores"]) == {
        c.name for c in summary.comparisons
    }


def test_cells_of_a_run_before_points_still_read(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.append_cell(cell("latent", 3, items=4))
    run.append_cell(at("rows=8", strategy="latent", right=3, items=4))
    file = run.path / "cells.jsonl"
    old = file.read_text().replace(', "point": ""', "")
    assert '"point"' not in old.splitlines()[0]
    file.write_text(old)
    keys = [one.key for one in run.cells()]
    assert keys == [CellKey("latent", "arith", 0), CellKey("latent", "arith", 0, "rows=8")]

"""What arms spend: tables, the line on unlike budgets, equal budgets, curves."""

from __future__ import annotations

import itertools
import json

import attrs
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report import ROLES, cell
from tiny_transfers import pair_of, word_task

from pktkit.cli import main
from pktkit.compare import cells as cells_module
from pktkit.compare.cells import CellRunner
from pktkit.compare.curve import curve_points, require_free
from pktkit.compare.memory import PeakMemory
from pktkit.compare.parity import Costs, reference_arm
from pktkit.compare.plan import PairSpec, Plan, choose_strategies
from pktkit.components import Choice, Strategy
from pktkit.errors import UsageError
from pktkit.outcomes import CellKey, Spent
from pktkit.pair import save_model
from pktkit.registry import Registry
from pktkit.report import RunDirectory, render, summarise
from pktkit.report.budgets import body, reference_row, unlike
from pktkit.report.curves import curve_sections, curves
from pktkit.report.html import render_html
from pktkit.values import Injection

STEPS = 12


def spending(strategy, *, seed=0, point="", right=20, source=0, target=1000, **injected):
    one = cell(strategy, right, seed=seed)
    if one.injection is None:
        return attrs.evolve(one, peak_bytes=2**20)
    fields = {"steps": 10, "tokens": 100, "trainable_parameters": 50} | injected
    return attrs.evolve(
        one,
        key=attrs.evolve(one.key, point=point),
        injection=Injection("m", **fields),
        spent=Spent(64, source, target),
        peak_bytes=3 * 2**30,
    )


def summary_of(*cells):
    known = {one.key.strategy for one in cells}
    return summarise(cells, roles={n: r for n, r in ROLES.items() if n in known}, n_boot=199)


def test_alike_budgets_are_not_mentioned() -> None:
    [comparison] = summary_of(
        spending("target"), spending("sft"), spending("latent", target=1049)
    ).comparisons
    assert unlike(comparison) is None
    assert not any("unlike" in line for line in render_lines(comparison))


def render_lines(comparison):
    from pktkit.report.records import Summary

    return render(Summary((comparison,)), "table").splitlines()


def test_unlike_budgets_are_one_line_with_arms_and_ratios() -> None:
    summary = summary_of(
        spending("target"),
        spending("sft"),
        spending("latent", source=500, target=1000),
        spending("random", source=500, target=1000),
        spending("naive", steps=0, tokens=0, trainable_parameters=0, target=0),
    )
    [comparison] = summary.comparisons
    assert unlike(comparison) == (
        "unlike budgets, against sft: FLOPs latent/random 1.5× (reading the source 0.5×), "
        "naive 0×; no step of training naive."
    )
    for text in (render(summary, "md"), render_html(summary)):
        assert "unlike budgets, against sft" in text
        assert "Budget" in text and "peak memory" in text
    data = json.loads(render(summary, "json"))["scores"]["arith"]
    assert data["unlike_budgets"] == unlike(comparison)
    latent = next(row for row in data["rows"] if row["strategy"] == "latent")
    assert (latent["flops"], latent["source_flops"], latent["rows"]) == (1500, 500, 64)


def test_every_quantity_is_named() -> None:
    [comparison] = summary_of(
        spending("latent"),
        spending("naive", steps=20, tokens=150, trainable_parameters=5, target=100_000),
    ).comparisons
    assert reference_row(comparison).strategy == "latent", "the first that injected, without sft"
    assert unlike(comparison) == (
        "unlike budgets, against latent: steps naive 2×; tokens naive 1.5×; trainable parameters "
        "naive 0.1×; FLOPs naive 100×."
    )


def test_the_budget_table_has_every_figure() -> None:
    [comparison] = summary_of(
        spending("target"), spending("sft", seed=0), spending("sft", seed=1, target=3000)
    ).comparisons
    assert body(comparison) == [
        ("target", "–", "–", "–", "–", "–", "–", "2.0", "1 MiB"),
        ("sft", "64", "10", "100", "50", "2.0 k", "0", "2.0", "3.0 GiB"),
    ]


def test_what_was_spent_comes_back_from_the_folder(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    cells = [spending("target"), spending("sft", source=3)]
    for one in cells:
        run.append_cell(one)
    assert run.cells() == cells


# Curves


def curve_summary(points=("rows=16", "rows=64")):
    cells = [spending("target"), spending("source", right=55)]
    for (place, text), seed in itertools.product(enumerate(points), range(3)):
        for name in ("latent", "sft"):
            right = 20 + 10 * place + seed
            cells.append(spending(name, seed=seed, point=text, right=right))
    return summary_of(*cells)


def test_a_curve_has_the_scores_of_its_points() -> None:
    found = {curve.strategy: curve for curve in curves(curve_summary())}
    assert list(found) == ["target", "source", "latent", "sft"]
    for curve in found.values():
        assert (curve.task, curve.axis) == ("arith", "rows")
        assert [point.budget for point in curve.points] == [16, 64]
        for point in curve.points:
            assert 0 <= point.interval.low <= point.mean <= point.interval.high <= 100
    assert [p.mean for p in found["latent"].points] == pytest.approx([35, 155 / 3])
    assert len({p.mean for p in found["target"].points}) == 1


def test_a_grid_has_curves_both_ways() -> None:
    grid = [f"rows={rows},steps={steps}" for rows in (16, 64) for steps in (5, 10, 20)]
    found = [curve for curve in curves(curve_summary(grid)) if curve.strategy == "latent"]
    assert [(curve.task, curve.axis) for curve in found] == [
        *((f"arith at steps={steps}", "rows") for steps in (5, 10, 20)),
        *((f"arith at rows={rows}", "steps") for rows in (16, 64)),
    ]
    assert [p.budget for p in found[-1].points] == [5, 10, 20]


def test_curves_reach_every_report() -> None:
    summary = curve_summary()
    [section] = curve_sections(summary)
    assert section.title == "Score against training rows · arith"
    assert "| latent | 35.0 \\[" in section.markdown
    assert section.figures[0].png.startswith(b"\x89PNG")
    assert curve_sections(summary)[0].figures == section.figures, "equal curves, equal bytes"
    assert [c["strategy"] for c in json.loads(render(summary, "json"))["curves"]] == [
        "target", "source", "latent", "sft",
    ]  # fmt: skip
    text = render(summary, "table")
    assert text.startswith("Score against training rows · arith\n")
    assert "arith at rows=64 · 60 items" in text and "arith at rows=16 ·" not in text
    assert "arith at rows=16 ·" in render(summary, "md")
    assert not curve_sections(curve_summary(["rows=16"])), "one point is no curve"


def test_points_of_the_command_line() -> None:
    tasks = [attrs.evolve(word_task(12), budget={"steps": 80})]
    arms = [Strategy("target", role="target"), Strategy("m", injector=Choice("x"))]
    assert curve_points(None, None, tasks, arms) == ("",)
    assert curve_points("12, 3", None, tasks, arms) == ("rows=3", "rows=12")
    assert curve_points(None, "steps", tasks, arms) == ("steps=20", "steps=40", "steps=80")
    assert curve_points("4,8", "steps=7", tasks, arms) == ("rows=4,steps=7", "rows=8,steps=7")
    few = [attrs.evolve(word_task(12), budget={"steps": 1})]
    assert curve_points(None, "steps", few, arms) == ("steps=1",)


@pytest.mark.parametrize(
    ("rows", "curve", "message"),
    [
        ("x", None, "--rows takes whole numbers from 1"),
        ("0", None, "--rows takes whole numbers from 1"),
        (",", None, "--rows takes whole numbers from 1"),
        ("3,3", None, "--rows names 3 more than once"),
        ("5,13", None, "split 'train' of task 'words' has 12 rows. Name at most 12"),
        (None, "rows", "For training rows there is --rows"),
        (None, "steps=", "--curve steps takes whole numbers"),
        (None, "steps", "budgets have 50, 80 steps"),
    ],
)
def test_curves_that_cannot_be_drawn(rows, curve, message) -> None:
    tasks = [attrs.evolve(word_task(12), budget={"steps": 80})]
    plain = Strategy("m", injector=Choice("x"))
    arms = [plain, attrs.evolve(plain, name="n", budget={"steps": 50})]
    with pytest.raises(UsageError, match=message):
        curve_points(rows, curve, tasks, arms)


def test_rows_and_unlabelled_prompts_share_a_split() -> None:
    arms = [Strategy("m", injector=Choice("x"), budget={"unlabelled": 5})]
    with pytest.raises(UsageError, match=r"'m' takes 5 as unlabelled prompts. Name at most 7"):
        curve_points("8", None, [word_task(12)], arms)
    with pytest.raises(UsageError, match="both set the rows"):
        require_free(["m:budget.rows=3"], rows=True, steps=False)
    require_free(["budget.rows=3", "budget.steps=2"], rows=False, steps=False)


# Equal budgets


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 500),
    st.floats(0.1, 10),
    st.floats(0, 5),
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.integers(1, 60),
)
def test_the_closest_number_of_steps_is_found(before, per_token, per_row, tokens, wanted) -> None:
    def steps():
        for count, size in enumerate(itertools.cycle(tokens)):
            yield size, max(0, 3 - count)

    costs = Costs(before, per_token, per_row, steps)
    assert costs.steps_for(costs.after(wanted)) == wanted
    allowed = 2 * before + 100
    found = costs.steps_for(allowed)
    others = (abs(costs.after(n) - allowed) for n in (max(1, found - 1), found + 1))
    assert all(abs(costs.after(found) - allowed) <= other + 1e-9 for other in others)


def test_an_arm_whose_steps_are_free_keeps_them() -> None:
    assert Costs(5, 0, 0, itertools.repeat).steps_for(100) is None


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pair = pair_of("llama")
    return [
        str(save_model(model, folder / name))
        for name, model in (("source", pair.source), ("target", pair.target))
    ]


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def runner_of(monkeypatch, checkpoints, registry, names, **fields):
    """A runner on a task of rows that differ in length."""
    items = word_task(24).items("train")
    longer = tuple(
        attrs.evolve(item, prompt=" ".join([item.prompt] * (1 + place % 5)))
        for place, item in enumerate(items)
    )
    task = word_task(24)
    budget = {"steps": STEPS, "batch_size": 4, "accumulate": 2}
    task = attrs.evolve(
        task, splits={**task.splits, "train": longer}, budget=budget, max_new_tokens=3
    )
    monkeypatch.setattr(cells_module, "choose_task", lambda registry, name: task)
    arms = choose_strategies(registry, names, controls=False)
    plan = Plan(PairSpec(*checkpoints), tuple(arms), ("words",), (0,), **fields)
    return CellRunner(plan, registry=registry)


ARMS = ["kd", "sft", "latent", "latent-fisher", "seqkd", "naive"]
"""With readings, adapters, one block after another, labels of the source, and no step at all."""


def test_equal_operations_within_one_step(monkeypatch, checkpoints, registry) -> None:
    runner = runner_of(monkeypatch, checkpoints, registry, ARMS, equal="flops")
    assert reference_arm(runner.plan.strategies).name == "sft"
    done = {name: runner.run(CellKey(name, "words", 0)) for name in ARMS}
    assert not any(result.error for result in done.values()), done
    reference = done["sft"].spent.flops
    assert done["sft"].injection.steps == STEPS
    for name, result in done.items():
        steps = result.injection.steps
        if name == "naive":
            assert steps == 0
            continue
        # a step of the first block costs the most, for gradients pass all blocks above it
        one = result.spent.target_flops / steps * (1.5 if name == "latent-fisher" else 1)
        assert steps == 1 or abs(result.spent.flops - reference) <= one, name
    assert done["kd"].injection.steps < STEPS, "reading the source costs steps"


def test_equal_tokens_within_one_step(monkeypatch, checkpoints, registry) -> None:
    names = ["sft", "seqkd", "kd"]
    runner = runner_of(monkeypatch, checkpoints, registry, names, equal="tokens")
    done = {name: runner.run(CellKey(name, "words", 0)).injection for name in names}
    wanted = done["sft"].tokens
    for injection in done.values():
        assert abs(injection.tokens - wanted) <= injection.tokens / injection.steps
    assert done["kd"].tokens == wanted, "the same rows, so the same tokens"


def test_equal_steps_overrule_an_arms_own(monkeypatch, checkpoints, registry) -> None:
    runner = runner_of(monkeypatch, checkpoints, registry, ["sft", "kd"], equal="steps")
    arms = [
        attrs.evolve(arm, budget={"steps": 3}) if arm.name == "kd" else arm
        for arm in runner.plan.strategies
    ]
    runner.plan = attrs.evolve(runner.plan, strategies=tuple(arms))
    assert runner.run(CellKey("kd", "words", 0)).injection.steps == STEPS


def test_a_point_with_more_rows_than_fit_fails_with_figures(
    monkeypatch, checkpoints, registry
) -> None:
    runner = runner_of(monkeypatch, checkpoints, registry, ["sft"])
    few = runner.run(CellKey("sft", "words", 0, "rows=5,steps=2"))
    assert (few.spent.rows, few.injection.steps) == (5, 2)
    assert "24 fit 512 tokens" in runner.run(CellKey("sft", "words", 0, "rows=25")).error


# Memory


def test_the_peak_is_of_what_runs_inside() -> None:
    with PeakMemory(["cpu"]) as large:
        held = torch.ones(200 * 2**18)
        del held
    with PeakMemory(["cpu"]) as small:
        torch.ones(2**10)
    assert large.bytes > small.bytes + 150 * 2**20, "an earlier cell's peak is forgotten"


def test_where_no_peak_is_kept_memory_is_sampled(monkeypatch) -> None:
    monkeypatch.setattr("pktkit.compare.memory._reset", lambda: False)
    with PeakMemory(["cpu"]) as peak:
        pass
    assert peak.bytes > 2**20


# The command line


def test_a_curve_from_the_command_line(tmp_path, checkpoints) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [{"prompt": f"t{i} t{i + 7}", "answer": f"t{(5 * i + 1) % 50}"} for i in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "run"
    result = CliRunner().invoke(
        main,
        [
            "compare", "--strategies", "kd", "--task", str(rows), "--no-controls", "--seeds", "2",
            "--source", checkpoints[0], "--target", checkpoints[1], "--jobs", "0",
            "--set", "budget.steps=4", "--rows", "4,8", "--equal", "tokens", "--out", str(out),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Score against training rows" in result.output
    found = json.loads((out / "results.json").read_text())
    assert [p["budget"] for p in found["curves"][0]["points"]] == [4, 8]
    assert found["plan"]["points"] == ["rows=4", "rows=8"]
    [picture] = out.glob("*curve-rows.png")
    assert f"({picture.name})" in (out / "report.md").read_text()
    assert "<title>kd: score against training rows</title>" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "16,100000"], "has 4096 rows. Name at most 4096"),
        (["--rows", "16", "--set", "budget.rows=8"], "--set budget.rows=8 and --rows both set"),
        (["--curve", "epochs"], "only steps can be varied"),
        (["--equal", "joules"], "joules"),
    ],
)
def test_bad_budgets_are_one_message(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["compare", "--strategies", "latent", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())

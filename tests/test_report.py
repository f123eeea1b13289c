"""Rows, claims and formats of a report, and the folder of a run."""

from __future__ import annotations

import csv
import io
import json
import re

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.errors import UsageError
from pktkit.outcomes import CellKey, CellResult, ItemScore, ReportSection
from pktkit.report import (
    FORMATS,
    Claim,
    RunDirectory,
    numbers,
    render,
    summarise,
    verdict,
    wants_colour,
)
from pktkit.report.html import render_html
from pktkit.report.records import Summary
from pktkit.statistics import holm
from pktkit.values import Injection

ROLES = {
    "latent": "method",
    "naive": "method",
    "target": "target",
    "source": "source",
    "sft": "baseline",
    "random": "placebo",
}
MEANING = {"random": "the meaning of its map"}


def cell(strategy, right, *, seed=0, items=60, error="", task="arith", seconds=1.5, start=0):
    """A cell that has `right` items right, from item `start` on."""
    marks = [start <= i < start + right for i in range(items)]
    scores = [ItemScore(f"i{i}", float(mark), f"p{i}") for i, mark in enumerate(marks)]
    trained = strategy not in ("target", "source")
    return CellResult(
        key=CellKey(strategy, task, seed),
        scores=() if error else scores,
        injection=Injection("m", 10, 25_300, 1_230_000) if trained and not error else None,
        seconds={"inject": seconds, "evaluate": 0.5},
        peak_bytes=10,
        error=error,
    )


def example(**changes):
    cells = [cell("target", 10), cell("source", 55)]
    for seed in range(3):
        cells.append(cell("latent", 40 + seed % 2, seed=seed, **changes))
        cells.append(cell("sft", 25 - seed % 2, seed=seed))
        cells.append(cell("random", 40 + (seed + 1) % 2, seed=seed))
        cells.append(cell("naive", 0, seed=seed, error="CUDA out of\n memory | NaN"))
    return cells


def summary_of(cells, **options):
    return summarise(cells, roles=ROLES, n_boot=999, **{"meaning": MEANING, **options})


@pytest.fixture(scope="module")
def summary():
    return summary_of(example(), plan={"items": 60, "pair": "a → b"})


def test_rows_are_ordered_by_role(summary) -> None:
    names = [row.strategy for row in summary.comparisons[0].rows]
    assert names == ["target", "source", "latent", "naive", "sft", "random"]
    assert [row.control for row in summary.comparisons[0].rows].count(False) == 2


def test_row_figures(summary) -> None:
    row = summary.comparisons[0].row("latent")
    assert row.n_seeds == 3
    assert row.mean == pytest.approx(100 * (40 + 41 + 40) / 180)
    assert row.deviation == pytest.approx(100 * (1 / 3) ** 0.5 / 60)
    assert (row.lost, row.gained) == (0.0, pytest.approx(91 / 3))
    assert (row.steps, row.tokens, row.trainable_parameters) == (10, 25_300, 1_230_000)
    assert row.timing.total == 2.0
    assert row.against_target.points == pytest.approx(100 * 91 / 180)
    target = summary.comparisons[0].row("target")
    assert (target.deviation, target.against_target, target.lost) == (None, None, None)


def test_contrasts_and_claims(summary) -> None:
    claims = {c.reference: c.claim for c in summary.comparisons[0].contrasts_of("latent")}
    assert claims == {
        "target": Claim.BEATS,
        "source": Claim.WORSE,
        "sft": Claim.BEATS,
        "random": Claim.NOT_SEPARABLE,
    }


def test_holm_is_over_methods_per_reference(summary) -> None:
    comparison = summary.comparisons[0]
    assert all(c.adjusted_p == c.p for c in comparison.contrasts)  # one method has scores
    assert comparison.row("sft").against_target.adjusted_p is None
    cells = [c for c in example() if c.key.strategy != "naive"]
    cells += [cell("naive", 20, seed=seed) for seed in range(3)]
    both = summary_of(cells).comparisons[0]
    for reference in ("target", "sft", "random"):
        family = [c for c in both.contrasts if c.reference == reference]
        assert [c.adjusted_p for c in family] == holm([c.p for c in family])
        assert len(family) == 2


def test_verdict_reads_well(summary) -> None:
    text = verdict(summary.comparisons[0])
    assert text.startswith("latent beats the untouched target by 50.6 points (95 % interval ")
    assert "; it is not separable from random (" in text
    assert "; it is worse than the source by " in text
    assert "There is no evidence that it profits from the meaning of its map." in text
    assert "naive failed: CUDA out of memory | NaN." in text


def test_placebo_speaks_only_of_its_own_method() -> None:
    of_other = summary_of(example(), placebo_of={"random": ["naive"]})
    assert "profits" not in verdict(of_other.comparisons[0])


def test_table_is_plain_and_narrow(summary) -> None:
    text = render(summary, "table")
    assert "\x1b" not in text
    assert not re.search("[─│━┃]", text)
    assert max(map(len, text.splitlines())) <= 120
    header = next(line for line in text.splitlines() if line.startswith("#"))
    expected = ["#", "strategy", "score %", "Δ vs target [95 %]", "p (Holm)"]
    expected += ["gap % [95 %]", "lost", "gained"]
    assert re.split(r"\s{2,}", header) == [*expected, "tokens", "trainable", "seconds"]
    latent = next(line for line in text.splitlines() if "latent" in line)
    assert re.fullmatch(
        r"3 +latent +67\.2 ± 1\.0 +\+50\.6 \[\+\d+\.\d, \+\d+\.\d\] +0\.0\d\d "
        r"+67 \[5\d, 8\d\] +0 +30\.3 +25\.3 k "
        r" +1\.2 M +2\.0",
        latent,
    )
    assert "[1] naive seed 0, 1, 2: CUDA out of memory | NaN" in text
    assert "nan" not in text.replace("NaN", "")


def test_styled_table_has_colour(summary) -> None:
    assert "\x1b[" in render(summary, "table", styled=True)


def test_colour_needs_a_terminal_and_no_no_color(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_markdown(summary) -> None:
    text = render(summary, "md")
    table, contrasts, budgets = (
        [line for line in part.splitlines() if line.startswith("|")]
        for part in re.split(r"\*\*(?:Verdict|Budget)\*\*", text)
    )
    assert len(table) == 2 + 6
    assert len(contrasts) == 2 + 4 + 3  # latent with four others, three controls with the target
    assert len(budgets) == 2 + 6
    for part in (table, contrasts, budgets):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in part}) == 1
    assert "\\| NaN" in text


def test_json_parses_and_separates_timing() -> None:
    fast, slow = (summary_of(example(seconds=s), plan={"x": float("nan")}) for s in (1.0, 9.0))
    one, other = (json.loads(render(s, "json")) for s in (fast, slow))
    assert one["schema_version"] == 1
    assert one["plan"] == {"x": None}
    assert one["scores"] == other["scores"]
    assert one["timing"] != other["timing"]
    assert one["timing"]["arith"]["latent"]["seconds"] == {"inject": 1.0, "evaluate": 0.5}
    rows = {row["strategy"]: row for row in one["scores"]["arith"]["rows"]}
    assert rows["latent"]["against_target"]["claim"] == "beats"
    assert rows["naive"]["mean"] is None
    assert rows["naive"]["failed"]


def test_csv(summary) -> None:
    lines = list(csv.DictReader(io.StringIO(render(summary, "csv"))))
    assert [line["strategy"] for line in lines][:3] == ["target", "source", "latent"]
    assert float(lines[2]["delta_points"]) == pytest.approx(50.5556)
    assert lines[3]["mean_percent"] == ""
    assert lines[3]["failed"].startswith("CUDA")


def test_unknown_format_suggests(summary) -> None:
    with pytest.raises(UsageError, match="Did you mean 'json'"):
        render(summary, "jsn")


def test_order_of_cells_does_not_matter(summary) -> None:
    again = summary_of(example()[::-1], plan=summary.plan)
    for form in FORMATS:
        assert render(again, form) == render(summary, form)


def test_one_seed_is_said() -> None:
    cells = [cell("target", 10), cell("latent", 40)]
    comparison = summarise(cells, roles={"target": "target", "latent": "method"}).comparisons[0]
    assert comparison.row("latent").deviation is None
    assert "only 1 seed" in verdict(comparison)


def test_no_evidence_states_the_detectable_effect() -> None:
    cells = [cell("target", 10)]
    cells += [cell("latent", 10, seed=seed, start=seed - 1) for seed in range(3)]
    text = verdict(summarise(cells, roles={"target": "target", "latent": "method"}).comparisons[0])
    assert "latent is not separable from the untouched target (" in text
    assert re.search(r"could have shown is about \d+\.\d points", text)
    assert "No evidence that latent improves the target." in text


def test_gap_closed_stands_beside_the_difference(summary) -> None:
    comparison = summary.comparisons[0]
    latent, target = comparison.row("latent"), comparison.row("target")
    assert latent.gap.percent == pytest.approx(100 * (91 / 180) / (45 / 60))
    assert latent.gap.percent in latent.gap.interval
    assert target.gap is None
    rows = json.loads(render(summary, "json"))["scores"]["arith"]["rows"]
    assert rows[2]["gap_closed"]["percent"] == latent.gap.percent
    lines = list(csv.DictReader(io.StringIO(render(summary, "csv"))))
    assert float(lines[2]["gap_percent"]) == pytest.approx(latent.gap.percent, rel=1e-5)
    assert lines[0]["gap_percent"] == ""


def test_gap_is_undefined_where_the_source_is_not_above_the_target() -> None:
    cells = [c for c in example() if c.key.strategy != "source"] + [cell("source", 11)]
    summary = summary_of(cells)
    assert summary.comparisons[0].row("latent").gap.percent is None
    assert "undefined" in render(summary, "table")
    rows = json.loads(render(summary, "json"))["scores"]["arith"]["rows"]
    assert rows[2]["gap_closed"] == {"percent": None, "low": None, "high": None}


def test_references_choose_what_strategies_are_compared_with() -> None:
    summary = summary_of(example(), references=["sft", "target"])
    comparison = summary.comparisons[0]
    assert [c.reference for c in comparison.contrasts] == ["sft", "target"]
    assert comparison.reference == "sft"
    latent, target = comparison.row("latent"), comparison.row("target")
    assert latent.against.points == pytest.approx(latent.mean - comparison.row("sft").mean)
    assert latent.against_target.points == pytest.approx(latent.mean - target.mean)
    assert target.against.points == pytest.approx(target.mean - comparison.row("sft").mean)
    assert target.against.adjusted_p is None
    assert comparison.row("sft").against is None
    text = render(summary, "table")
    assert "Δ vs sft" in text
    assert "random (" not in verdict(comparison)
    assert "Δ to sft" in render_html(summary)


def test_a_method_can_be_the_reference() -> None:
    cells = [c for c in example() if c.key.strategy != "naive"]
    cells += [cell("naive", 20, seed=seed) for seed in range(3)]
    comparison = summary_of(cells, references=["latent"]).comparisons[0]
    assert [(c.strategy, c.reference) for c in comparison.contrasts] == [("naive", "latent")]
    assert comparison.contrasts[0].adjusted_p == comparison.contrasts[0].p
    assert "naive is worse than latent" in verdict(comparison)


def test_unknown_references_list_the_rows() -> None:
    with pytest.raises(UsageError, match=r"unknown reference 'stf'.*Did you mean 'sft'.*random"):
        summary_of(example(), references=["stf"])


def test_alpha_sets_the_level() -> None:
    strict = summary_of(example(), alpha=0.01).comparisons[0]
    usual = summary_of(example()).comparisons[0]
    assert strict.level == 99.0
    wide, narrow = (c.row("latent").against.interval for c in (strict, usual))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert "Δ vs target [99 %]" in render(Summary((strict,)), "md").replace("\\", "")


def test_controls_alone_are_compared_with_the_untouched_models() -> None:
    cells = [c for c in example() if c.key.strategy in ("target", "source", "sft", "random")]
    roles = {name: role for name, role in ROLES.items() if role != "method"}
    comparison = summarise(cells, roles=roles, n_boot=999).comparisons[0]
    pairs = [(c.strategy, c.reference) for c in comparison.contrasts]
    assert pairs == [(s, r) for r in ("target", "source") for s in ("sft", "random")]
    family = comparison.contrasts[:2]
    assert [c.adjusted_p for c in family] == holm([c.p for c in family])
    text = verdict(comparison)
    assert text.startswith("Only controls were compared;")
    assert "sft beats the untouched target by" in text


def test_untouched_models_alone_say_what_there_is_to_gain() -> None:
    roles = {"target": "target", "source": "source"}
    cells = [cell("target", 10), cell("source", 55)]
    text = verdict(summarise(cells, roles=roles).comparisons[0])
    assert text.startswith("No row was transferred and scored; between the untouched target and")
    assert "+75.0 points" in text
    alone = summarise(cells[:1], roles={"target": "target"}).comparisons[0]
    assert verdict(alone) == "Nothing was compared: no row was transferred and scored."


def test_repeated_runs_are_noise_and_no_seeds() -> None:
    again = [attrs.evolve(c, key=attrs.evolve(c.key, repeat=1)) for c in example()[:3]]
    moved = cell("sft", 27)
    again.append(attrs.evolve(moved, key=attrs.evolve(moved.key, repeat=1)))
    summary = summary_of([*example(), *again])
    comparison, without = summary.comparisons[0], summary_of(example()).comparisons[0]
    assert comparison.contrasts == without.contrasts
    assert comparison.row("latent").repeats.differing == 0
    noise = comparison.row("sft").repeats
    assert (noise.runs, noise.items, noise.differing) == (2, 60, 2)
    assert noise.mean_deviation == pytest.approx(100 * 2 / 60 / 2**0.5)
    assert comparison.row("random").repeats is None
    assert "items of 60 that differ between 2 runs of a seed" in render(summary, "table")
    assert "| sft | 2 | 2 of 60 |" in render(summary, "md")
    failed = attrs.evolve(again[2], scores=(), error="boom")
    row = summary_of([*example(), failed]).comparisons[0].row("latent")
    assert [f.reason for f in row.failures] == ["repeat 1: boom"]
    assert row.n_seeds == 3


def test_contrasts_carry_their_second_opinion_and_their_parts(summary) -> None:
    found = json.loads(render(summary, "json"))["scores"]["arith"]["contrasts"]
    against_target = found[0]
    assert against_target["exact_test"] == "sign-flip"
    assert against_target["exact_p"] < 1e-6
    assert set(against_target["variance"]) >= {"seed", "item", "noise", "freedom"}
    one_seed = [c for c in example() if c.key.seed == 0]
    contrast = summary_of(one_seed).comparisons[0].contrasts[0]
    assert contrast.exact.name == "McNemar"
    assert contrast.variance.seed is None


def test_partial_failure_keeps_the_other_seeds() -> None:
    cells = example()
    cells.append(cell("sft", 0, seed=1, error="loss is NaN at step 3"))  # run again: last counts
    comparison = summary_of(cells).comparisons[0]
    row = comparison.row("sft")
    assert row.seeds == (0, 2)
    assert row.failed is None
    contrast = next(c for c in comparison.contrasts_of("latent") if c.reference == "sft")
    assert contrast.seeds == 2
    assert "sft seed 1: loss is NaN at step 3" in render(summary_of(cells), "table")
    assert "2 seeds say little" in verdict(comparison)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (cell("sft", 5, items=10), "not the 60 of the other rows"),
        (CellResult(CellKey("sft", "arith", 0), [ItemScore("i0", float("nan"))]), "not a number"),
        (CellResult(CellKey("sft", "arith", 0), [ItemScore("i0", 1.0)] * 2), "twice"),
        (CellResult(CellKey("sft", "arith", 0)), "scored no items"),
    ],
)
def test_unusable_cells_become_failures(bad, reason) -> None:
    cells = [c for c in example() if c.key.strategy != "sft"] + [bad]
    row = summary_of(cells).comparisons[0].row("sft")
    assert reason in row.failed
    assert "Nothing can be said against sft" in verdict(summary_of(cells).comparisons[0])


def test_strategies_that_did_not_run_are_rows() -> None:
    summary = summary_of([c for c in example() if c.key.strategy != "random"])
    assert summary.comparisons[0].row("random").failed == "was not run"
    assert summary.any_failed


def test_everything_failed_still_renders() -> None:
    summary = summary_of([cell(name, 0, error="boom") for name in ROLES])
    for form in FORMATS:
        assert "boom" in render(summary, form)


def test_unknown_role_and_missing_role() -> None:
    with pytest.raises(UsageError, match="known roles"):
        summarise([], roles={"latent": "hero"})
    with pytest.raises(UsageError, match="no role"):
        summarise(example(), roles={"latent": "method"})


scores = st.lists(st.integers(0, 1), min_size=8, max_size=8)


@settings(max_examples=20, deadline=None)
@given(st.data(), st.integers(1, 3))
def test_nothing_is_claimed_that_the_numbers_do_not_show(data, seeds) -> None:
    cells = []
    for name in ROLES:
        for seed in range(seeds):
            marks = data.draw(scores)
            items = [ItemScore(str(i), float(m)) for i, m in enumerate(marks)]
            error = "boom" if data.draw(st.integers(0, 9)) == 0 else ""
            cells.append(CellResult(CellKey(name, "t", seed), () if error else items, error=error))
    comparison = summarise(cells, roles=ROLES, n_boot=199).comparisons[0]
    text = verdict(comparison)
    assert text == verdict(comparison)
    allowed = 0
    for contrast in comparison.contrasts:
        shown = contrast.adjusted_p < contrast.alpha and 0.0 not in contrast.interval
        assert (contrast.claim is not Claim.NOT_SEPARABLE) == shown
        allowed += contrast.claim is Claim.BEATS
    assert ("beats" in text) == (allowed > 0)
    beaten = re.findall(r"beats ([^;.]*(?:\.\d[^;.]*)*)", text)
    assert sum(part.count("by ") for part in beaten) == allowed
    for form in FORMATS:
        assert not re.search(r"\bnan\b|\binf\b", render(Summary((comparison,)), form))


@pytest.mark.parametrize(
    ("value", "text"),
    [(24.14, "+24.1"), (-1.84, "−1.8"), (0.0, "0.0"), (-1e-9, "0.0"), (0.004, "+0.004")],
)
def test_signed(value, text) -> None:
    assert numbers.signed(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (999, "999"), (25_300, "25.3 k"), (999_950, "1.0 M"), (10**9, "1.0 G")],
)
def test_large(value, text) -> None:
    assert numbers.large(value) == text


def test_run_directory_round_trip(tmp_path, summary) -> None:
    run = RunDirectory.create(tmp_path / "runs" / "one")
    cells = example()
    for one in cells:
        run.append_cell(one)
    assert [c.key for c in run.cells()] == [c.key for c in cells]
    assert summary_of(run.cells(), plan=summary.plan) == summary
    run.finish(summary, run.cells(), [ReportSection("Extra", "text")])
    names = {path.name for path in run.path.iterdir()}
    assert names == {"cells.jsonl", "results.json", "items.jsonl", "report.md", "report.html"}
    assert json.loads((run.path / "results.json").read_text())["schema_version"] == 1
    lines = (run.path / "items.jsonl").read_text().splitlines()
    assert len(lines) == 60 * (2 + 3 * 3)
    assert json.loads(lines[0]) == {
        "strategy": "target", "seed": 0, "task": "arith", "point": "", "repeat": 0, "item": "i0",
        "score": 1.0, "prediction": "p0",
    }  # fmt: skip
    assert "## Extra" in (run.path / "report.md").read_text()


def test_half_written_cell_is_dropped_on_resume(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.append_cell(cell("target", 3))
    with (run.path / "cells.jsonl").open("a") as file:
        file.write('{"key": {"strat')
    again = RunDirectory.reopen(run.path)
    assert len(again.cells()) == 1
    again.append_cell(cell("latent", 3))
    assert len(again.cells()) == 2


def test_nan_in_diagnostics_does_not_break_a_cell(tmp_path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    injection = Injection("m", losses={"ce": [float("nan"), 1.0]})
    run.append_cell(CellResult(CellKey("a", "t", 0), [ItemScore("i", float("nan"))], injection))
    (read,) = run.cells()
    assert read.injection.losses == {"ce": [None, 1.0]}
    assert read.scores[0].score != read.scores[0].score


def test_run_directory_refuses(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        RunDirectory.create(tmp_path)
    with pytest.raises(UsageError, match="cannot be written"):
        RunDirectory.create(tmp_path / "file" / "run")
    with pytest.raises(UsageError, match="no run to resume"):
        RunDirectory.reopen(tmp_path / "nothing")
    run = RunDirectory.create(tmp_path / "damaged")
    (run.path / "cells.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="line 1"):
        run.cells()


def test_read_only_folder_is_refused_before_any_work(tmp_path, monkeypatch) -> None:
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        RunDirectory.create(tmp_path / "run")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.write("report.md", "old")

    def fail(*_args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UsageError, match=r"report\.md cannot be written: disk full"):
        run.write("report.md", "new")
    assert (run.path / "report.md").read_text() == "old"
    assert not list(run.path.glob(".report*"))

"""Sweeps: what can be searched, that it goes on as if never stopped, what a winner is worth."""

from __future__ import annotations

import json
import shutil
import sys

import attrs
import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_runs import write_pair

import pktkit.tasks.jsonl as rows_files
from pktkit.cli import main
from pktkit.compare.cells import CellRunner
from pktkit.compare.lock import resolved
from pktkit.compare.plan import choose_strategies
from pktkit.components import Choice, Strategy
from pktkit.errors import StrategyError, UsageError
from pktkit.recipe import dump_recipe, load_recipe
from pktkit.registry import Registry
from pktkit.report.schemas import schema
from pktkit.statistics.selection import corrected_gain
from pktkit.sweep.sampling import make_sampler
from pktkit.sweep.space import configured, parse_space, size, unequal


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture(scope="module")
def latent(registry):
    return registry.strategy("latent")


def space_of(latent, registry, *texts):
    return parse_space(texts, latent, registry)


def test_forms_of_values(latent, registry, tmp_path) -> None:
    (tmp_path / "more.yaml").write_text(
        "aligner.map: [unit, lens]\nbudget.warmup: 0..0.5:0.25\nbudget.checkpointing: [true, false]"
    )
    layer, rate, batch, clip, maps, warmup, flag = space_of(
        latent,
        registry,
        "injector.layer_weight=log:0.5..20",
        "budget.learning_rate=1e-4..1e-2",
        "budget.batch_size=2..8:2",
        "budget.clip=int:1..3",
        str(tmp_path / "more.yaml"),
    )
    assert (layer.low, layer.high, layer.log, layer.points) == (0.5, 20.0, True, None)
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 1e-2, False, False)
    assert batch.points == [2, 4, 6, 8], "an option of whole numbers gets whole numbers"
    assert clip.points == [1, 2, 3]
    assert maps.values == ("unit", "lens") and maps.value(1) == "lens"
    assert warmup.points == [0.0, 0.25, 0.5]
    assert flag.values == (True, False)
    assert size([batch, maps, warmup]) == 24 and size([batch, layer]) is None
    assert rate.value(0.00123456) == 0.001235, "four digits, for people"
    assert layer.value(20.0) == 20.0
    assert unequal([batch, rate]) == ["budget.batch_size"]
    changed = configured(latent, {"aligner.map": "unit", "budget.clip": 2})
    assert changed.aligner.options["map"] == "unit" and changed.budget["clip"] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("injector.layer_weigth=1..2", "Did you mean 'layer_weight'?"),
        ("injektor.layer_weight=1..2", "Did you mean 'injector'?"),
        ("layer_weight=1..2", "must be STAGE.OPTION"),
        ("naive:injector.layer_weight=1..2", "leave out 'naive:'"),
        ("injector.layer_weight", "or a YAML file"),
        ("nowhere.yaml", "cannot be read"),
        ("injector.layer_weight=2..1", "from the lower to the higher"),
        ("injector.layer_weight=log:0..1", "begin above 0, got 0"),
        ("injector.layer_weight=log:1..2:0.5", "log range has no step"),
        ("injector.layer_weight=1..2:3", "at most 1, got 3"),
        ("injector.layer_weight=int:1.5..2", "whole numbers"),
        ("injector.layer_weight=log:one..2", "is no range"),
        ("injector.layer_weight=1", "leaves no choice"),
        ("injector.layer_weight=1,1", "in the list twice"),
        ("injector.layer_weight=1,heavy", "'heavy' is refused"),
        ("injector.layer_weight=-1..2", "-1.0 is refused"),
        ("aligner.map=1..2", "a range is for numbers"),
        ("aligner.map=lens,lense", "Did you mean 'lens'?"),
        ("budget.learning_rate=0..1", "0.0 is refused"),
    ],
)
def test_a_bad_space_is_refused_before_anything_runs(latent, registry, text, message) -> None:
    with pytest.raises(UsageError) as caught:
        space_of(latent, registry, text)
    assert message in str(caught.value)
    assert "--space" in str(caught.value) or "space" in str(caught.value)


def test_stages_that_a_strategy_lacks_and_names_given_twice(latent, registry) -> None:
    with pytest.raises(UsageError, match="strategy 'sft' has no aligner"):
        parse_space(["aligner.map=lens,unit"], registry.strategy("sft"), registry)
    with pytest.raises(UsageError, match=r"names aligner\.map more than once"):
        space_of(latent, registry, "aligner.map=lens,unit", "aligner.map=lens,tight")
    with pytest.raises(UsageError, match="nothing to search"):
        space_of(latent, registry)


@pytest.mark.parametrize("name", ["tpe", "random", "grid"])
def test_samplers_propose_the_same_again(latent, registry, name) -> None:
    space = space_of(
        latent, registry, "injector.layer_weight=1..3:1", "aligner.map=lens,unit", "budget.clip=1,2"
    )

    def proposals(seed):
        sampler = make_sampler(name, space, seed)
        for number in range(12):
            sampled = sampler.ask()
            yield {d.name: d.value(sampled[d.name]) for d in space}
            sampler.tell(None if number == 3 else float(sampled["injector.layer_weight"]))

    first = list(proposals(0))
    assert first == list(proposals(0)) != list(proposals(1))
    if name == "grid":
        assert len({repr(values) for values in first}) == 12 == size(space)


def test_a_grid_needs_steps_and_the_rest_optuna(latent, registry, monkeypatch) -> None:
    space = space_of(latent, registry, "injector.layer_weight=log:1..2")
    with pytest.raises(UsageError, match="takes any number"):
        make_sampler("grid", space, 0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'pktkit\[sweep\]'"):
        make_sampler("tpe", space, 0)


def simulated(rng, *, configurations=12, seeds=3, items=60, better=0.0):
    """Return right-or-wrong scores with luck of items and of seeds; the last may be better."""
    chance = (
        0.5 + rng.normal(0, 0.15, (1, 1, items)) + rng.normal(0, 0.05, (configurations, seeds, 1))
    )
    chance[-1] += better
    return (rng.random((configurations, seeds, items)) < chance).astype(float)


@pytest.mark.parametrize("seeds", [1, 3])
def test_where_nothing_differs_the_corrected_gain_is_0_and_the_naive_one_is_not(seeds) -> None:
    rng = np.random.default_rng(0)
    naive, corrected = [], []
    for _ in range(120):
        scores = simulated(rng, seeds=seeds)
        if seeds == 1:  # one seed cannot be corrected for: leave its luck out
            scores = (rng.random(scores.shape) < 0.5).astype(float)
        gains = (scores - scores[0]).mean(axis=(1, 2))
        naive.append(gains.max())
        corrected.append(corrected_gain(scores, scores[0], draws=100))
    error = np.std(corrected) / np.sqrt(len(corrected))
    assert np.mean(naive) > 0.05, "the best of 12 looks 5 points better"
    assert abs(np.mean(corrected)) < 3 * error < 0.025


def test_a_real_gain_stays_most_of_what_it_is() -> None:
    rng = np.random.default_rng(1)
    found = [
        (scores := simulated(rng, better=0.3)) is not None
        and corrected_gain(scores, scores[0], draws=100)
        for _ in range(40)
    ]
    assert 0.24 < np.mean(found) < 0.31


def test_corrected_gain_by_hand() -> None:
    base = np.zeros((1, 4))
    always = np.stack([base, base + 1.0])
    assert corrected_gain(always, base) == pytest.approx(1.0), "nobody else can win"
    assert corrected_gain(np.stack([base, base]), base) == 0.0
    assert corrected_gain(np.ones((2, 2, 1)), np.zeros((1, 1))) is None, "no item to leave out"


class NoTest(dict):
    """Splits of which test raises when it is looked at."""

    def __getitem__(self, name):
        if name == "test":
            raise AssertionError("somebody looked at test")
        return super().__getitem__(name)

    def items(self):
        return [(name, self[name]) for name in self]

    def values(self):
        return [self[name] for name in self]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    write_pair(made)
    return made


def arguments(folder, *more):
    return [
        "sweep",
        f"--source={folder / 'source'}",
        f"--target={folder / 'target'}",
        f"--task={folder / 'rows.jsonl'}",
        "--strategy=latent",
        "--set=budget.steps=2",
        "--seeds=2",
        "--jobs=0",
        *more,
    ]


SPACE = ("--space=injector.layer_weight=log:0.5..20", "--space=budget.learning_rate=0.01,1e38")


@pytest.fixture(scope="module")
def swept(folder):
    """A sweep of three trials, on a task whose test items raise when they are looked at."""
    load = rows_files.load_task

    def hidden(*args, **options):
        task = load(*args, **options)
        return attrs.evolve(task, splits=NoTest(task.splits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_files, "load_task", hidden)
        run = folder / "swept"
        told = CliRunner().invoke(
            main, arguments(folder, *SPACE, "--trials=3", "--sampler=tpe", f"--out={run}")
        )
    assert told.exit_code == 0, told.output
    return run, told


def test_a_sweep_writes_what_it_found(swept, registry) -> None:
    run, told = swept
    found = json.loads((run / "sweep.json").read_text())
    jsonschema.validate(found, schema("sweep"))
    assert (found["schema_version"], found["split"], found["configurations"]) == (1, "dev", 4)
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 2, 3]
    failed = [trial for trial in found["trials"] if trial["error"]]
    assert {trial["values"]["budget.learning_rate"] for trial in failed} == {"1e38"}
    assert all("seed 0" in trial["error"] and trial["score"] is None for trial in failed)
    assert [gain["reference"] for gain in found["gains"]] == ["latent", "sft", "target"]
    winner = found["trials"][found["winner"]]
    assert winner["score"] == max(t["score"] for t in found["trials"] if t["score"] is not None)
    for gain in found["gains"]:
        assert gain["naive"] == pytest.approx(winner["score"] - gain["score"])
    text = (run / "recipe.yaml").read_text()
    assert text.startswith("# tried 4 configurations of latent (1 as registered)")
    assert "corrected for being the best of" in text and "# command: pktkit sweep" in text
    assert "pktkit compare --strategies latent," in text
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.name, recipe.role, recipe.budget["steps"]) == ("latent-swept", "method", 2)
    chosen = choose_strategies(registry, ["latent", str(run / "recipe.yaml")], controls=False)
    run_as = dump_recipe(resolved(chosen[1], registry))
    assert run_as == dump_recipe(recipe), "what a comparison on test would run"
    assert recipe.injector.options["layer_weight"] == winner["values"]["injector.layer_weight"]
    assert "| 3 |" in (run / "report.md").read_text()
    assert "confirm on test: pktkit compare" in told.stdout and "as registered" in told.stdout
    assert "Trial" not in told.stderr, "optuna keeps quiet"


def test_a_sweep_that_was_killed_goes_on_as_if_it_had_not_been(swept, folder, tmp_path) -> None:
    run, told = swept
    stopped = tmp_path / "stopped"
    shutil.copytree(run, stopped)
    for name in ("sweep.json", "recipe.yaml", "report.md"):
        (stopped / name).unlink()
    trials = (run / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "trials.jsonl").write_bytes(b"".join(trials[:2]) + trials[2][:20])
    cells = (run / "cells.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "cells.jsonl").write_bytes(b"".join(cells[:7]) + cells[7][:30])
    again = CliRunner().invoke(main, ["sweep", f"--resume={stopped}", "--jobs=0"])
    assert again.exit_code == 0, again.output
    assert "resume   2 of 4 trials" in again.stderr
    assert again.stdout == told.stdout
    for name in ("sweep.json", "recipe.yaml", "trials.jsonl"):
        assert (stopped / name).read_text() == (run / name).read_text()


def test_trials_of_another_sampler_are_refused(swept, tmp_path) -> None:
    run, _ = swept
    other = tmp_path / "other"
    shutil.copytree(run, other)
    lock = (other / "sweep.lock").read_text()
    (other / "sweep.lock").write_text(lock.replace("  seed: 0\n", "  seed: 5\n", 1))
    refused = CliRunner().invoke(main, ["sweep", f"--resume={other}", "--jobs=0"])
    assert refused.exit_code == 2 and "proposes" in refused.stderr and "optuna" in refused.stderr


def test_all_fail(folder, tmp_path, monkeypatch) -> None:
    def fail(*args):
        raise StrategyError("made to fail")

    monkeypatch.setattr(CellRunner, "_transferred", fail)
    ended = CliRunner().invoke(
        main,
        arguments(
            folder, "--space=aligner.map=lens,unit", "--sampler=grid", f"--out={tmp_path / 'run'}"
        ),
    )
    assert ended.exit_code == 1, ended.output
    assert "no configuration has a score" in ended.stdout and "made to fail" in ended.stdout
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    assert json.loads((tmp_path / "run" / "sweep.json").read_text())["winner"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--space=budget.rows=8,16"], "--allow-unequal-budget"),
        (["--set=aligner.map=lens", "--space=aligner.map=lens,unit"], "in --set and in --space"),
        (["--space=aligner.map=lens,unit", "--strategy=target"], "untouched model"),
        (["--space=aligner.map=lens,unit", "--strategy=latent,naive"], "Give one strategy"),
        (["--space=aligner.map=lens,unit", "--seeds=0"], "--seeds"),
        ([], "nothing to search"),
    ],
)
def test_bad_usage(folder, more, message) -> None:
    refused = CliRunner().invoke(main, arguments(folder, *more))
    assert refused.exit_code == 2, refused.output
    assert message in refused.stderr


def test_bad_folders(swept, folder, tmp_path) -> None:
    run, _ = swept
    test = tmp_path / "test"
    shutil.copytree(run, test)
    lock = (test / "sweep.lock").read_text()
    (test / "sweep.lock").write_text(lock.replace("    split: dev\n", "    split: test\n", 1))
    for given, message in (
        (["sweep", f"--resume={test}"], "looks at dev only"),
        (arguments(folder, *SPACE, f"--out={run}"), "pktkit sweep --resume"),
        (["sweep", f"--resume={tmp_path}"], "sweep.lock is missing"),
        (["sweep", f"--resume={run}", "--seeds=3"], "leave out --seeds"),
    ):
        refused = CliRunner().invoke(main, given)
        assert refused.exit_code == 2 and message in refused.stderr, refused.output


def test_a_strategy_is_under_test_whatever_its_role() -> None:
    from pktkit.sweep.run import varied

    baseline = Strategy("sft", injector=Choice("x"), role="placebo", placebo_of=["a"])
    assert (varied(baseline).role, varied(baseline).placebo_of) == ("method", ())

"""Cells, plans and the whole comparison, in this process, on tiny models."""

from __future__ import annotations

import json
import types

import attrs
import pytest
import torch
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit.budget import Budget
from pktkit.compare import cells as cells_module
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan, choose_strategies, choose_task, parse_seeds
from pktkit.compare.run import run_comparison
from pktkit.compare.workers import default_jobs
from pktkit.components import Choice, Component, Strategy
from pktkit.discovery.plugins import load_plugins
from pktkit.errors import UsageError
from pktkit.hookspecs import hookimpl
from pktkit.outcomes import CellKey
from pktkit.pair import save_model
from pktkit.registry import Registry
from pktkit.report import RunDirectory, summarise
from pktkit.settings import EvidenceSettings
from pktkit.transfer import budget_for, transfer_rows
from pktkit.values import Injection

QUICK = {"steps": 3, "batch_size": 4, "learning_rate": 1e-3}


@attrs.frozen
class NoOptions:
    """No settings."""


class Silent:
    """An injector that changes the target behind the journal's back."""

    Options = NoOptions

    def __init__(self, options):
        pass

    def inject(self, target, alignment, data, journal):
        with torch.no_grad():
            next(iter(target.model.parameters())).add_(1)
        return Injection("silent")


class Empty(Silent):
    """An injector that returns nothing."""

    def inject(self, target, alignment, data, journal):
        return None


class Exploding:
    """An injector that spoils the target and raises an error of its own."""

    Options = NoOptions

    def __init__(self, options):
        pass

    def inject(self, target, alignment, data, journal):
        journal.write("model.norm.weight", target.model.model.norm.weight * 2)
        raise ZeroDivisionError("on purpose")


EMPTY = Strategy("empty", injector=Choice("empty"))
SILENT = Strategy("silent", injector=Choice("silent"))
EXPLODING = Strategy("exploding", injector=Choice("exploding"))


def small_task():
    return attrs.evolve(word_task(12), name="words", budget=QUICK, max_new_tokens=3)


class Plugin:
    """Registers a tiny task and two injectors that misbehave."""

    @hookimpl
    def pktkit_tasks(self):
        return [Component("words", "test_compare:small_task")]

    @hookimpl
    def pktkit_knowledge_injectors(self):
        return [
            Component("silent", "test_compare:Silent"),
            Component("empty", "test_compare:Empty"),
            Component("exploding", "test_compare:Exploding"),
        ]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    pair = pair_of("llama")
    return str(save_model(pair.source, folder / "source")), str(
        save_model(pair.target, folder / "target")
    )


@pytest.fixture(scope="session")
def registry():
    return Registry(load_plugins(extra={"tiny": Plugin()}))


def plan_of(checkpoints, strategies, **fields):
    fields = {"tasks": ("words",), "seeds": (0,)} | fields
    return Plan(PairSpec(*checkpoints), tuple(strategies), **fields)


def run_all(plan, registry):
    runner = CellRunner(plan, registry=registry)
    before = snapshot(runner.pair.target), snapshot(runner.pair.source)
    results = {key: runner.run(key) for key in plan.cells()}
    assert same_bits(runner.pair.target, before[0]), "every cell rolls back"
    assert same_bits(runner.pair.source, before[1]), "the source is never modified"
    return results


def test_every_registered_strategy_runs_and_leaves_the_pair_as_it_was(checkpoints, registry):
    names = [n for n in registry.names("strategy") if registry.strategy(n).role == "method"]
    names.remove("naive-task-vector")  # it needs the source's base model
    strategies = choose_strategies(registry, names, controls=True)
    results = run_all(plan_of(checkpoints, strategies), registry)
    assert {"latent", "latent-v1", "seeking", "naive"} <= {k.strategy for k in results}
    for key, result in results.items():
        assert not result.failed, f"{key.strategy}: {result.error}"
        assert len(result.scores) == 12


def test_misbehaving_injectors_are_rows_with_a_reason(checkpoints, registry):
    chosen = [SILENT, EMPTY, EXPLODING, *choose_strategies(registry, ["naive"], controls=False)]
    results = run_all(plan_of(checkpoints, chosen), registry)
    results = {key.strategy: result for key, result in results.items()}
    assert "behind the journal's back" in results["silent"].error
    assert "returned NoneType, expected Injection" in results["empty"].error
    assert "ZeroDivisionError: on purpose" in results["exploding"].error
    alone = run_all(plan_of(checkpoints, chosen[3:]), registry)
    for key, result in alone.items():
        assert result.scores == results[key.strategy].scores


def test_a_loss_that_is_not_finite_fails_its_arm_only(checkpoints, registry):
    chosen = choose_strategies(registry, ["latent", "naive"], controls=False)
    broken = [
        attrs.evolve(s, budget={"learning_rate": 1e30, "clip": 1e30}) if s.name == "latent" else s
        for s in chosen
    ]
    results = {k.strategy: r for k, r in run_all(plan_of(checkpoints, broken), registry).items()}
    assert "is nan at step 2" in results["latent"].error
    assert "items i" in results["latent"].error
    assert not results["naive"].failed


def test_two_runs_give_identical_scores_and_a_complete_directory(
    checkpoints, registry, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        cells_module, "Registry", types.SimpleNamespace(discover=lambda s: registry)
    )
    strategies = choose_strategies(registry, ["latent", "seeking", "naive"], controls=True)
    plan = plan_of(checkpoints, strategies, seeds=(0, 1, 2))
    written = []
    for name in ("first", "second"):
        directory = RunDirectory.create(tmp_path / name)
        summary = run_comparison(plan, registry, directory, jobs=0)
        assert not summary.any_failed
        written.append(json.loads((tmp_path / name / "results.json").read_text()))
        items = (tmp_path / name / "items.jsonl").read_text().splitlines()
        assert len(items) == 12 * len(plan.cells())
        assert (tmp_path / name / "report.md").read_text()
    for document in written:
        document.pop("timing")
    assert written[0] == written[1]


def test_untouched_models_are_scored_once(checkpoints, registry):
    plan = plan_of(
        checkpoints, choose_strategies(registry, ["latent"], controls=True), seeds=(3, 4)
    )
    count = [key.strategy for key in plan.cells()].count
    assert count("target") == count("source") == 1
    assert count("latent") == count("sft") == 2


def test_repeats_are_further_runs_of_the_first_seed(checkpoints, registry, tmp_path):
    """On the CPU they change nothing, and say so."""
    strategies = choose_strategies(registry, ["naive"], controls=False)
    evidence = EvidenceSettings(0.1, 499, ("target",))
    plan = plan_of(checkpoints, strategies, seeds=(7, 9), repeats=2, evidence=evidence)
    keys = plan.cells()
    again = [key for key in keys if key.repeat]
    assert keys[-len(again) :] == again
    assert {key.seed for key in again} == {7}
    assert len(set(keys)) == len(keys) == 2 + 2 + 2 * 3
    directory = RunDirectory.create(tmp_path / "run")
    results = run_all(plan, registry)
    for result in results.values():
        directory.append_cell(result)
    comparison = summarise(
        directory.cells(), roles={s.name: s.role for s in strategies}, alpha=0.1, n_boot=499
    ).comparisons[0]
    for row in comparison.rows:
        assert (row.repeats.runs, row.repeats.items, row.repeats.differing) == (3, 12, 0)


def test_controls_stand_beside_and_can_be_left_out(registry):
    full = {s.name for s in choose_strategies(registry, ["latent"], controls=True)}
    assert {"target", "source", "sft", "kd", "random", "shuffled", "identity-self"} < full
    bare = {s.name for s in choose_strategies(registry, ["latent"], controls=False)}
    assert bare == {"latent", "target", "source"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["latnt"], "Did you mean 'latent'"),
        ([], "no strategy"),
        (["naive", "naive"], "more than once"),
    ],
)
def test_strategies_that_cannot_be_chosen(registry, names, message):
    with pytest.raises(UsageError, match=message):
        choose_strategies(registry, names, controls=True)


def test_a_recipe_file_with_an_unknown_component_is_refused(registry, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\nmatcher: depht\naligner: semantic\ninjector: all-blocks\n")
    with pytest.raises(UsageError, match=r"strategy 'mine'.*Did you mean 'depth'"):
        choose_strategies(registry, [str(recipe)], controls=False)


def test_unknown_tasks_and_missing_files(registry, tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'compose'"):
        choose_task(registry, "compos")
    with pytest.raises(UsageError, match=r"rows\.jsonl"):
        choose_task(registry, str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (0, 1, 2)), ("7,11", (7, 11)), ("5,", (5,)), ("1", (0,))]
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "-1", "a", "", "1,1", "1.5"])
def test_seeds_that_make_no_sense(text):
    with pytest.raises(UsageError, match="--seeds"):
        parse_seeds(text)


def test_rows_depend_on_the_seed_alone():
    budget = Budget(rows=10, unlabelled=30)
    assert transfer_rows(100, budget, 1) == transfer_rows(100, budget, 1)
    assert transfer_rows(100, budget, 1) != transfer_rows(100, budget, 2)
    rows, further = transfer_rows(100, budget, 1)
    assert (len(rows), len(further), len({*rows, *further})) == (10, 30, 40)
    assert rows == transfer_rows(100, Budget(rows=10), 1)[0], "further prompts change no row"
    assert transfer_rows(5, Budget(rows=10), 1) == (tuple(range(5)), ())
    with pytest.raises(UsageError, match=r"asks for 91 further prompts, .* 90 remain"):
        transfer_rows(100, Budget(rows=10, unlabelled=91), 1)


def test_budget_is_the_tasks_then_the_strategys():
    strategy = Strategy("s", budget={"steps": 9})
    assert budget_for(small_task(), strategy) == Budget(**{**QUICK, "steps": 9})
    with pytest.raises(UsageError, match="stepz"):
        budget_for(small_task(), Strategy("s", budget={"stepz": 9}))


def test_jobs_suit_the_models():
    assert default_jobs(20, devices=("cpu", "cuda"), checkpoint_bytes=1) == 1
    assert default_jobs(20, devices=("cpu", "cpu"), checkpoint_bytes=1 << 40) == 1
    assert default_jobs(1, devices=("cpu", "cpu"), checkpoint_bytes=1) == 1


def test_cells_name_their_unknown_task(checkpoints, registry):
    plan = plan_of(checkpoints, choose_strategies(registry, ["naive"], controls=False))
    result = CellRunner(plan, registry=registry).run(CellKey("naive", "nonsense", 0))
    assert result.failed and "nonsense" in result.error

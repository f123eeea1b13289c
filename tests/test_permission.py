"""Programs that a model wrote are run with the user's permission only."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner

from pktkit.cli import main
from pktkit.compare import plan as planning
from pktkit.compare import run as running
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan, own_tasks
from pktkit.errors import EXIT_USAGE
from pktkit.pair import save_model
from pktkit.permission import (
    VARIABLE,
    code_execution,
    code_execution_allowed,
    require_permission,
)
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded

COMPARE = ["compare", "--strategies", "naive", "--no-controls", "--limit", "2", "--jobs", "0"]


class Planned(Exception):
    pass


@pytest.fixture(autouse=True)
def no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


def test_permission_is_given_for_a_block_or_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not code_execution_allowed()
    with code_execution():
        assert code_execution_allowed()
        with code_execution(False):
            assert code_execution_allowed(), "a setting that is off takes nothing away"
    with code_execution(False):
        assert not code_execution_allowed()
    for spelt, allowed in {"1": True, "true": True, "0": False, "": False, "no": False}.items():
        monkeypatch.setenv(VARIABLE, spelt)
        assert code_execution_allowed() == allowed


def test_only_tasks_that_run_programs_need_it(registry: Registry) -> None:
    refused = []
    for name in own_tasks(registry):
        try:
            require_permission(registry, registry.task(name))
        except Exception as error:
            refused.append(name)
            assert f"task '{name}' is scored by evaluator" in str(error)
            assert "add --allow-code-execution" in str(error)
    assert "code" in refused
    assert not {"compose", "facts", "arith", "edits"} & set(refused)


@pytest.mark.parametrize("task", ["code", "compose,code", "all"])
def test_compare_refuses_before_anything_is_loaded(
    task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(self: PairSpec) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(planning.PairSpec, "load", load)
    out = tmp_path / "run"
    done = CliRunner().invoke(main, [*COMPARE, "--task", task, "--out", str(out)])
    assert done.exit_code == EXIT_USAGE
    assert "runs programs that a model wrote" in done.output
    assert "--allow-code-execution" in done.output and VARIABLE in done.output
    assert not out.exists()


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_permission_reaches_the_plan(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Plan] = []

    def run(plan: Plan, *args: object, **settings: object) -> None:
        plans.append(plan)
        raise Planned

    monkeypatch.setattr(running, "run_comparison", run)
    flags = ["--allow-code-execution"] if how == "flag" else []
    environment = {VARIABLE: "1"} if how == "variable" else {}
    arguments = [*COMPARE, "--task", "code", "--out", str(tmp_path / "run"), *flags]
    CliRunner().invoke(main, arguments, env=environment)
    assert len(plans) == 1 and plans[0].allow_code_execution == (how == "flag")


def test_cells_run_programs_when_the_plan_says_so(registry: Registry, tmp_path: Path) -> None:
    for name in ("source", "target"):
        save_model(tiny_loaded("llama", blocks=2, seed=len(name)), tmp_path / name)
    pair = PairSpec(str(tmp_path / "source"), str(tmp_path / "target"))
    target = tuple(registry.strategy(name) for name in ("target",))
    runner = CellRunner(Plan(pair, target, ("code",), (0,), item_limit=3), registry=registry)
    for allowed in (False, True):
        runner.plan = attrs.evolve(runner.plan, allow_code_execution=allowed)
        result = runner.run(runner.plan.cells()[0])
        assert ("permission" in result.error) != allowed
        assert len(result.scores) == (3 if allowed else 0)
        assert not code_execution_allowed()

"""Two processes on the CPU end where one ends: everything that trains, whole and sharded."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from scored_together import TOLD
from structlog.testing import capture_logs
from two_processes import CASES, INSTALLED, can_run

from pktkit.budget import Budget
from pktkit.distributed.launch import joined, requested_sharding, shared_directory
from pktkit.distributed.processes import ALONE, Processes, Sharding, Zero
from pktkit.errors import UsageError

TESTS = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes found; they run all cases once."""
    folder = tmp_path_factory.mktemp("two")
    launch = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(TESTS / "two_processes.py"), str(folder)],
            env={**os.environ, **launch, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


needs_deepspeed = pytest.mark.skipif(not INSTALLED, reason="DeepSpeed is not installed")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if can_run(n) else needs_deepspeed) for n in CASES]
)
def test_two_processes_end_where_one_does(found, name):
    case = found[name]
    assert case["same"], "the two processes ended with different weights"
    assert case["moved"] > 0
    assert case["tokens"][0] == case["tokens"][1]
    for one, two in zip(*case["operations"], strict=True):
        assert 0.8 * one <= two <= one  # parts are padded to their own longest row
    exact = "bf16" not in name
    assert case["difference"] < (1e-4 if exact else 4e-3)
    alone, together = case["losses"]
    assert alone.keys() == together.keys()
    for term, values in alone.items():
        assert together[term] == pytest.approx(values, rel=1e-4 if exact else 2e-2)


def test_an_objective_that_knows_nothing_of_processes_is_computed_on_all_rows(found):
    """It relates tokens of different processes and trains a parameter of its own."""
    assert found["naive"]["difference"] < 1e-4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too few rows", "UsageError: budget.batch_size 7 in 4 parts"),
        ("not finite", "NonFiniteError: the loss is nan at step 1"),
        ("not finite, sharded", "NonFiniteError: the loss is nan at step 1"),
        pytest.param(
            "not finite, ZeRO",
            "NonFiniteError: the loss is nan at step 1",
            marks=needs_deepspeed,
        ),
    ],
)
def test_both_processes_fail_alike_and_leave_the_target_as_it_was(found, name, message):
    assert found[name]["error"].startswith(message)
    assert found[name]["same"] and found[name]["restored"]


def test_a_process_that_fails_alone_does_not_go_on(found):
    first, second = found["lonely"]["told"]
    assert first == ""
    assert second.startswith("LaunchError: process 1 of 2 failed and not all others did")
    assert second.endswith("its disk is gone.")


def test_processes_with_different_budgets_do_not_wait_for_each_other_for_ever(found):
    for told in found["at odds"]["told"]:
        assert told.startswith("LaunchError: the budget differs between processes")
        assert "steps=2" in told and "steps=3" in told


@pytest.mark.parametrize("name", TOLD)
def test_two_processes_score_as_one_does(found, name):
    """The same items in the same order, with the same scores and the same answers."""
    case = found["scored"][name]
    assert case["together"] == [case["alone"]] * 2
    assert name == "one prompt" or {score["score"] for score in case["alone"]} == {0.0, 1.0}


def test_drawn_answers_differ_where_a_prompt_is_asked_again(found):
    scores = found["scored"]["drawn programs"]["alone"]
    assert scores[0]["prediction"] != scores[-1]["prediction"]


def test_items_are_shared_where_the_evaluator_promises_it_and_the_models_are_the_same(found):
    assert set(found["scored"]["shared"]) == {"3", "4"}
    assert set(found["scored"]["not promised"]) == {"7"}
    assert set(found["scored"]["other weights"]) == {"7"}


def test_an_error_in_one_share_is_the_same_row_in_both_processes_and_they_go_on(found):
    first, second = found["scored"]["cells"]
    assert first == second
    failed, sound = first
    assert failed["scores"] == 0 and failed["error"].startswith("process 1 of 2: strategy 'target'")
    assert "out of memory on the GPU (Tried to allocate 2.00 GiB)" in failed["error"]
    assert sound == {"error": "", "scores": 7}


def test_one_process_writes_and_prints(found):
    first, second = found["commands"]["all"]
    assert first["transfer"]["exit"] == second["transfer"]["exit"] == 0
    assert first["transfer"]["out"].startswith("wrote")
    assert second["transfer"]["out"] == second["transfer"]["err"] == ""
    assert "3 of 3 cells" in first["compare"]["out"] and ", 0 failed" in first["compare"]["out"]
    assert second["compare"] == {"exit": 0, "out": "", "err": ""}


def test_a_transfer_is_scored_before_and_after(found):
    card = found["commands"]["card"]
    assert card["split"] == "dev" and card["items"] > 2
    assert 0 < card["before"] < 100 and card["difference"] == card["after"] - card["before"]


def test_a_part_has_cells_and_claims_nothing(found):
    files = found["commands"]["files"]
    assert "cells.jsonl" in files
    assert not {"results.json", "report.md", "report.html"} & set(files)


def test_both_processes_hear_of_what_one_finds(found):
    for process in found["commands"]["all"]:
        assert process["occupied"]["exit"] == 2
        assert "is not empty" in process["occupied"]["err"]
        assert process["numbered"]["exit"] == 2
        assert "--device cuda: each process takes its own" in process["numbered"]["err"]


def test_a_strategy_that_fails_in_both_processes_is_a_row(found):
    first, second = found["commands"]["all"]
    assert first["too few"]["exit"] == 1
    assert "fewer than the 2 processes" in first["too few"]["out"]
    assert second["too few"]["exit"] == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "asks for Megatron-LM"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"},
            "'HYBRID_SHARD'; expected one of FULL_SHARD, SHARD_GRAD_OP, NO_SHARD",
        ),
    ],
)
def test_what_is_not_supported_is_refused(monkeypatch, variables, message):
    for name, value in {"WORLD_SIZE": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), joined("cpu"):
        pass


def test_fsdp_is_configured_by_what_the_launcher_says(monkeypatch):
    for name, value in {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "false",
        "FSDP_OFFLOAD_PARAMS": "true",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert requested_sharding() == Sharding(reshard_after_forward=False, offload=True)
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "False"  # else weights are missing
    monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "false")
    assert requested_sharding() == Sharding(reshard_after_forward=True, offload=False)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    assert requested_sharding() is None


@pytest.mark.parametrize(
    ("strategy", "sharding"),
    [
        ("FULL_SHARD", Sharding(reshard_after_forward=True, offload=True)),
        ("1", Sharding(reshard_after_forward=True, offload=True)),
        ("SHARD_GRAD_OP", Sharding(reshard_after_forward=False, offload=True)),
        ("NO_SHARD", None),
    ],
)
def test_fsdp_version_1_asks_for_what_version_2_does(monkeypatch, strategy, sharding):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_SHARDING_STRATEGY", strategy)
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    assert requested_sharding() == sharding


@pytest.fixture
def deepspeed_asked(monkeypatch):
    monkeypatch.setattr("accelerate.utils.is_deepspeed_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    return monkeypatch


def test_deepspeed_is_configured_by_what_the_launcher_says(deepspeed_asked):
    deepspeed_asked.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    deepspeed_asked.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    asked = requested_sharding()
    assert isinstance(asked, Zero)
    assert asked.section["stage"] == 3
    assert asked.section["offload_optimizer"]["device"] == "cpu"
    deepspeed_asked.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0")
    assert requested_sharding() is None


def test_deepspeeds_own_file_is_read_and_what_it_does_not_decide_is_said(deepspeed_asked, tmp_path):
    section = {"stage": 2, "overlap_comm": False}
    file = tmp_path / "deepspeed.json"
    file.write_text(
        json.dumps(
            {
                "zero_optimization": section,
                "gradient_clipping": "auto",
                "bf16": {"enabled": "auto"},
                "optimizer": {"type": "Lion"},
            }
        )
    )
    deepspeed_asked.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with capture_logs() as said:
        asked = requested_sharding()
    assert isinstance(asked, Zero)
    assert section.items() <= asked.section.items()
    assert [each["settings"] for each in said] == [["optimizer"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be used"),
        ("{", "cannot be used"),
        ("{}", "Please specify the ZeRO optimization config"),
        ('{"zero_optimization": {"stage": 7}}', "with a stage from 0 to 3"),
    ],
)
def test_a_configuration_of_deepspeed_that_is_no_use_is_refused(
    deepspeed_asked, tmp_path, text, message
):
    file = tmp_path / "deepspeed.json"
    if text is not None:
        file.write_text(text)
    deepspeed_asked.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(UsageError, match=message):
        requested_sharding()


def test_where_deepspeed_is_missing_it_is_said_what_to_install(deepspeed_asked):
    deepspeed_asked.setattr("accelerate.utils.is_deepspeed_available", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'pktkit\[deepspeed\]'"):
        requested_sharding()


def test_a_cpu_launch_that_starts_one_process_says_what_to_type(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UsageError, match="torchrun --nproc_per_node 2"), joined("cpu"):
        pass


def test_alone_nothing_is_shared(monkeypatch, tmp_path):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as processes, shared_directory(processes, None) as folder:
        assert processes == ALONE and folder is None
    with shared_directory(ALONE, tmp_path) as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_rows_are_split_evenly_and_in_order(count):
    for length in range(count, 12):
        parts = Processes(count=count).split(list(range(length)))
        assert [row for part in parts for row in part] == list(range(length))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_micro_batch_must_have_a_row_for_each_process():
    for batch_size in range(1, 9):
        for accumulate in range(1, 10):
            budget = Budget(batch_size=batch_size, accumulate=accumulate)
            parts = min(accumulate, batch_size)
            smallest = min(len(range(i, batch_size, parts)) for i in range(parts))
            processes = Processes(count=3)
            if smallest >= 3:
                processes.require_rows(budget)
            else:
                with pytest.raises(UsageError, match="fewer than the 3 processes"):
                    processes.require_rows(budget)

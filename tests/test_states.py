"""States written by one job and used by another: equal transfers, and no source weights."""

from __future__ import annotations

import json
import shutil

import attrs
import pytest
import torch
from click.testing import CliRunner
from test_vocabulary import pair_with
from tiny_tokenizers import kinds
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit.cache.entries import EntryWriter
from pktkit.cli import main
from pktkit.compare import cells as cells_module
from pktkit.compare.cells import CellRunner
from pktkit.compare.plan import PairSpec, Plan
from pktkit.errors import DoesNotFitError, PairIncompatibleError, UsageError
from pktkit.journal import Journal
from pktkit.outcomes import CellKey
from pktkit.pair import LoadedModel, ModelPair, save_model
from pktkit.probe import Probe, ProbeSettings
from pktkit.registry import Registry
from pktkit.states.source import open_source
from pktkit.states.writing import Wanted, write_states
from pktkit.transfer import budget_for, run_transfer, transfer_data
from pktkit.values import Interface, Origin

FROM_STATES = (
    "sft", "kd", "seqkd", "latent", "latent-lens", "latent-hint", "latent-ridge",
    "latent-geometry", "random", "shuffled", "identity-self",
)  # fmt: skip
"""Strategies that learn from what `pktkit states write` writes by default."""

FROM_WEIGHTS = ("seeking", "naive", "laten", "transplant")

TASK = attrs.evolve(word_task(), budget={"steps": 3, "batch_size": 3}, max_new_tokens=4)


@pytest.fixture(scope="module")
def registry():
    return Registry.discover()


def write(pair, directory, registry, wanted=None, task=TASK, **settings):
    return write_states(
        pair, [task], directory, wanted or Wanted(), registry, settings=ProbeSettings(**settings)
    )


def transferred(name, pair, registry, settings=None, task=TASK):
    """Return the target's parameters after a strategy; the target is put back."""
    strategy = registry.strategy(name)
    probe = Probe(pair, task, settings=settings)
    with Journal(pair.target) as journal:
        data = transfer_data(probe, budget_for(task, strategy), 0)
        run_transfer(strategy, pair, probe, data, journal, registry, task=task.name)
        found = snapshot(pair.target)
        journal.rollback()
    return found


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma-bfloat16"])
def written(request, registry, tmp_path_factory):
    """A pair and the same pair whose source is on disk; tied and untied heads, two precisions."""
    family, _, dtype = request.param.partition("-")
    pair = pair_of(family, "llama")
    if dtype:
        for model in (pair.source, pair.target):
            model.model.to(getattr(torch, dtype))
    directory = tmp_path_factory.mktemp("states") / "written"
    record = write(pair, directory, registry)
    assert record.dtype == str(pair.source.model.dtype)
    return pair, ModelPair(open_source(str(directory)), pair.target)


@pytest.mark.parametrize("name", FROM_STATES)
def test_a_transfer_from_written_states_is_bit_for_bit_that_from_the_model(name, written, registry):
    pair, from_states = written
    expected = transferred(name, pair, registry)
    transferred_states = transferred(name, from_states, registry)
    assert not same_bits(pair.target, expected), "the strategy changes the target"
    for parameter, value in expected.items():
        assert torch.equal(transferred_states[parameter], value), parameter


@pytest.fixture(scope="module")
def readings_only(registry, tmp_path_factory):
    pair = pair_of("llama")
    directory = tmp_path_factory.mktemp("states") / "written"
    write(pair, directory, registry, Wanted(answers=False, scores=()))
    return ModelPair(open_source(str(directory)), pair.target)


@pytest.mark.parametrize("name", FROM_WEIGHTS)
def test_a_strategy_that_needs_weights_is_refused_with_what_to_do(name, readings_only, registry):
    with pytest.raises(UsageError, match=rf"'{name}'.*[Gg]ive the model itself as --source"):
        transferred(name, readings_only, registry)


def test_a_strategy_that_needs_more_than_was_written_names_the_option(written, registry, tmp_path):
    pair, from_states = written
    with pytest.raises(UsageError, match="states write --task words --attribution extract"):
        transferred("latent-v1", from_states, registry)
    write(pair, tmp_path / "more", registry, Wanted(attribution=("extract",)))
    more = ModelPair(open_source(str(tmp_path / "more")), pair.target)
    expected = transferred("latent-v1", pair, registry)
    found = transferred("latent-v1", more, registry)
    assert all(torch.equal(found[parameter], value) for parameter, value in expected.items())


def test_the_source_has_its_sizes_but_not_its_weights(written):
    pair, from_states = written
    source, opened = pair.source.anatomy, from_states.source.anatomy
    for size in ("width", "n_blocks", "n_heads", "n_kv_heads", "head_dim", "ffn_width", "tied"):
        assert getattr(opened, size) == getattr(source, size), size
    assert torch.equal(opened.head_weight, source.head_weight)
    assert torch.equal(opened.final_norm_gain(), source.final_norm_gain())
    model = from_states.source.model
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in pair.source.model.parameters()
    )
    with pytest.raises(UsageError, match="a forward pass"):
        model(input_ids=torch.tensor([[1, 2]]))
    weight = opened.projections(0)["up"]
    with pytest.raises(UsageError, match=r"needs weights of source .*--source"):
        weight.read(model)
    assert "shape" in repr(model.get_parameter(weight.parameter))


def split_task():
    """A task whose splits hold different items."""
    items = word_task(30).items("train")
    parts = {name: items[6 * i : 6 * i + 6] for i, name in enumerate(TASK.splits)}
    return attrs.evolve(TASK, splits=parts)


def test_what_was_not_written_is_refused_by_name(registry, tmp_path):
    pair, task = pair_of("llama"), split_task()
    wanted = Wanted(states=("train",), answers=False, layers=(1, 3))
    write(pair, tmp_path / "s", registry, wanted, task)
    opened = ModelPair(open_source(str(tmp_path / "s")), pair.target)
    probe = Probe(opened, task)
    assert set(probe.states("train", [1, 3]).read([0])) == {1, 3}
    refused = {
        r"after blocks 1, 3; asked for are also 0\b.*--layers": lambda: probe.states("train", [0]),
        r"asked for are also 0, 2\b": lambda: probe.states(
            "train", [1, 3], interface=Interface.CONTRIBUTION
        ),
        "--splits align": lambda: probe.states("align", [1]),
        "--logits align": lambda: probe.logits("align"),
        "--answers": lambda: probe.answered,
        "--attribution extract": lambda: probe.attribution(),
        "--scores dev": lambda: opened.source.scores(task, "dev"),
        "other rows.*at most 512 tokens": lambda: Probe(
            opened, task, settings=ProbeSettings(max_length=5)
        ).states("train", [1]),
        "other rows.*template 'plain'": lambda: Probe(
            opened, attrs.evolve(task, template="tulu")
        ).states("train", [1]),
        r"6 of its 6 items differ": lambda: opened.source.scores(
            attrs.evolve(task, splits={"test": task.items("dev")}), "test"
        ),
        "the evaluator differ": lambda: opened.source.scores(
            attrs.evolve(task, max_new_tokens=9), "test"
        ),
    }
    for message, read in refused.items():
        with pytest.raises(UsageError, match=message):
            read()


def test_a_source_with_another_tokenizer_is_read_beside_the_target(registry, tmp_path):
    pair = pair_with(kinds()["sentencepiece"], kinds()["byte-level"])
    with pytest.raises(PairIncompatibleError, match="--logits none"):
        write(pair, tmp_path / "s", registry)
    assert not list(tmp_path.iterdir())
    write(pair, tmp_path / "s", registry, Wanted(logits=()))
    opened = ModelPair(open_source(str(tmp_path / "s")), pair.target)
    expected = transferred("latent-lens", pair, registry)
    found = transferred("latent-lens", opened, registry)
    assert all(torch.equal(found[parameter], value) for parameter, value in expected.items())


def test_states_in_bfloat16_serve_a_float32_target(registry, tmp_path):
    pair = pair_of("llama")
    write(pair, tmp_path / "s", registry, state_dtype="bfloat16")
    opened = ModelPair(open_source(str(tmp_path / "s")), pair.target)
    kept = ProbeSettings(state_dtype="bfloat16")
    expected = transferred("latent-lens", pair, registry, kept)
    found = transferred("latent-lens", opened, registry)
    assert all(torch.equal(found[parameter], value) for parameter, value in expected.items())


def test_a_damaged_copy_is_said_and_never_used(registry, tmp_path):
    pair = pair_of("llama")
    write(pair, tmp_path / "s", registry, Wanted(answers=False, scores=()))
    opened = ModelPair(open_source(str(tmp_path / "s")), pair.target)
    for shard in (tmp_path / "s" / "readings").glob("*/shard-*"):
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged.*does not hold what was written"):
        Probe(opened, TASK).states("train", [0])
    (tmp_path / "s" / "source.safetensors").unlink()
    with pytest.raises(UsageError, match="cannot be opened as a source"):
        open_source(str(tmp_path / "s"))
    with pytest.raises(UsageError, match="pktkit states write"):
        open_source(str(tmp_path))


def test_a_full_disk_leaves_nothing(registry, tmp_path, monkeypatch):
    def full(self, tensors):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EntryWriter, "add", full)
    with pytest.raises(DoesNotFitError, match="No space left"):
        write(pair_of("llama"), tmp_path / "s", registry)
    assert not list(tmp_path.iterdir())


def test_layers_that_do_not_exist_are_refused_before_anything_is_read(registry, tmp_path):
    with pytest.raises(UsageError, match=r"--layers names 4; .*blocks 0\.\.3"):
        write(pair_of("llama"), tmp_path / "s", registry, Wanted(layers=(4,)))


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def on_disk(tmp_path):
    """A pair of model directories and a file of rows."""
    pair = pair_of("llama")
    save_model(pair.source, tmp_path / "large")
    save_model(pair.target, tmp_path / "small")
    rows = [
        {"prompt": f"t{i} t{i + 7}", "answer": f"t{(5 * i + 1) % 50} t{i % 9}"} for i in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_command_line_from_the_large_machine_to_the_small_one(on_disk):
    target, task = ("--target", on_disk / "small"), ("--task", on_disk / "rows.jsonl")
    done = invoke(
        "states", "write", "--source", on_disk / "large", *target, *task, "--out", on_disk / "s"
    )
    assert done.exit_code == 0, done.output
    assert "wrote" in done.stdout and "states of split train" in done.stderr
    compare = (
        "compare", *target, *task, "--strategies", "latent,seqkd,seeking", "--no-controls",
        "--seeds", "1", "--jobs", "0", "--set", "budget.steps=2",
    )  # fmt: skip
    whole = invoke(*compare, "--source", on_disk / "large", "--out", on_disk / "whole")
    assert whole.exit_code == 0, whole.output
    shutil.rmtree(on_disk / "large")
    ours = invoke(*compare, "--source", on_disk / "s", "--out", on_disk / "ours")
    assert ours.exit_code == 1, "seeking needs weights"
    assert "give the model itself as --source" in " ".join(ours.output.split()).lower()
    expected, found = scores(on_disk / "whole"), scores(on_disk / "ours")
    assert {key for key in expected if key[0] != "seeking"} == found.keys()
    assert {key[0] for key in found} == {"source", "target", "latent", "seqkd"}
    assert all(expected[key] == found[key] for key in found)
    again = invoke(
        "states", "write", *target, *task, "--out", on_disk / "s2", "--source", on_disk / "s"
    )
    assert again.exit_code == 2 and "give the model itself" in again.output


def scores(folder):
    """What was said and scored, by strategy and item."""
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return {(x["strategy"], x["item"]): (x["score"], x.get("prediction")) for x in lines}


def test_info_shows_whose_states_they_are(on_disk):
    done = invoke(
        "states", "write", "--source", on_disk / "large", "--target", on_disk / "small", "--task",
        on_disk / "rows.jsonl", "--out", on_disk / "s", "--layers", "0,3", "--no-answers",
        "--state-dtype", "bfloat16",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    shown = invoke("states", "info", on_disk / "s")
    assert shown.exit_code == 0, shown.output
    for text in ("large  4 blocks × 48", "tokenizer of small", "bfloat16, blocks 0, 3", "torch"):
        assert text in shown.output, text
    rows = [line.split() for line in shown.output.splitlines() if line.startswith("states ")]
    assert [row[:3] for row in rows if "and" in row] == [["states", "and", "logits"]]
    document = json.loads(invoke("states", "info", on_disk / "s", "--format", "json").output)
    assert document["content"].keys() == {"weights", "buffers", "config"}
    assert {r["about"]["split"] for r in document["readings"]} == {"train", "align"}
    for bad in ("--layers", "x"), ("--splits", "trian"), ("--out", on_disk / "s"):
        refused = invoke(
            "states", "write", "--source", on_disk / "large", "--target", on_disk / "small",
            "--task", on_disk / "rows.jsonl", "--out", on_disk / "t", *bad,
        )  # fmt: skip
        assert refused.exit_code == 2, refused.output
    none = invoke("states", "info", on_disk)
    assert none.exit_code == 2 and "pktkit states write" in none.output


def test_the_source_row_needs_its_scores(monkeypatch, registry, tmp_path):
    pair = pair_of("llama")
    write(pair, tmp_path / "s", registry, Wanted(scores=("dev",)))
    opened = ModelPair(open_source(str(tmp_path / "s")), pair.target)
    monkeypatch.setattr(cells_module, "choose_task", lambda registry, name: TASK)
    monkeypatch.setattr(PairSpec, "load", lambda self: opened)
    results = {}
    for split in ("dev", "test"):
        plan = Plan(
            PairSpec("s", "t"), (registry.strategy("source"),), ("words",), (0,), split=split,
            item_limit=4,
        )  # fmt: skip
        runner = CellRunner(plan, registry=registry)
        results[split] = runner.run(CellKey("source", "words", 0))
    assert len(results["dev"].scores) == 4 and not results["dev"].error
    assert "--scores test" in results["test"].error


def test_target_states_are_read_from_the_target(registry, tmp_path):
    """A source on disk does not stand in for a target of equal weights."""
    pair = pair_of("llama")
    write(pair, tmp_path / "s", registry)
    twin: LoadedModel = pair.source
    probe = Probe(ModelPair(open_source(str(tmp_path / "s")), twin), split_task())
    assert probe.states("dev", [0], origin=Origin.TARGET).read([0])[0].shape[1] == 48

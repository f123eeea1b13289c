"""How prompt and answer become token ids: templates, special tokens, and rows that are too long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from tiny_transfers import pair_of, word_task

from pktkit.cli import main
from pktkit.encoding import encode_item, encode_split, encode_text, template
from pktkit.pair import save_model
from pktkit.probe import Probe
from pktkit.probe.spans import TextReader
from pktkit.settings import ProbeSettings
from pktkit.tasks.base import SPLITS, Item
from pktkit.testing import tiny_loaded, tiny_tokenizer

BOS, EOS = 1, 2
ITEM = Item("i", "t0 t1", "t2 t3")
CHAT = "<bos> {% for m in messages %}{{ m.content }} {% endfor %}t9 "


def tokenizer(chat: str = "", *, closing: bool = False) -> Any:
    """Build a tokenizer that begins every text, and may have a chat template and a closing."""
    from tokenizers import processors

    made = tiny_tokenizer()
    if chat:
        made.chat_template = chat
    if closing:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>",
            pair="<bos> $A $B",
            special_tokens=[("<bos>", BOS), ("<eos>", EOS)],
        )
    return made


def ids(made: Any, join: str) -> tuple[int, ...]:
    row = encode_item(made, ITEM, template(join), 99)
    assert row is not None
    return row.input_ids


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("join", ["plain", "chat", "tulu", "auto"])
def test_a_row_begins_once_and_ends_once(join: str, closing: bool) -> None:
    """Templates that write the beginning token, and tokenizers that add an end, add no second."""
    found = ids(tokenizer(CHAT, closing=closing), join)
    assert (found.count(BOS), found[0]) == (1, BOS)
    assert (found.count(EOS), found[-1]) == (1, EOS)


def test_the_end_is_supervised_with_the_answer() -> None:
    row = encode_item(tokenizer(CHAT), ITEM, template("chat"), 99)
    assert row is not None and row.ends
    assert row.input_ids == (BOS, 4, 5, 13, 6, 7, EOS)
    assert row.input_ids[row.supervised :] == (6, 7, EOS)


def test_a_chat_template_is_used_where_there_is_one() -> None:
    assert ids(tokenizer(CHAT), "auto") == ids(tokenizer(CHAT), "chat") != ids(tokenizer(), "plain")
    assert ids(tokenizer(), "auto") == ids(tokenizer(), "plain")


def test_a_text_that_begins_with_the_token_twice_keeps_one_of_its_own() -> None:
    assert encode_text(tokenizer(), "<bos> t0")[0] == [BOS, 4]
    assert encode_text(tokenizer(), "t0")[0] == [BOS, 4]
    assert encode_text(tokenizer(), "<bos> <bos> t0")[0] == [BOS, BOS, 4]


@pytest.mark.parametrize("join", ["plain", "chat"])
def test_positions_of_two_tokenizers_count_the_same_tokens(join: str) -> None:
    """What says how much a token has read speaks of the ids that the model is given."""
    made = tokenizer(CHAT)
    assert ids(made, join)[:-1] == TextReader(made).read(ITEM, join).ids


def test_rows_that_are_too_long_are_counted() -> None:
    items = [ITEM, Item("long", " ".join(["t1"] * 9), "t0"), Item("cut", "t1 t1", "t2 t3 t4 t5")]
    split = encode_split(tokenizer(), items, name="train", join="plain", max_length=6)
    assert (split.truncated, split.dropped) == (1, ("long",))
    assert [len(item.input_ids) for item in split.items] == [6, 6]
    assert [item.ends for item in split.items] == [True, False]


def test_a_probe_says_what_it_cut() -> None:
    task = word_task()
    long = (*task.items("train"), Item("long", " ".join(["t1"] * 9), "t0"))
    task = attrs.evolve(task, splits={**task.splits, "train": long})
    probe = Probe(pair_of("llama"), task, settings=ProbeSettings(max_length=6))
    assert probe.notes == ()
    probe.encoded("train")
    assert len(probe.notes) == 1
    assert "split 'train': of 7 rows 6 were cut at 6 tokens, and 1 dropped" in probe.notes[0]
    whole = Probe(pair_of("llama"), task, settings=ProbeSettings(max_length=60))
    whole.encoded("train")
    assert whole.notes == ()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Give two checkpoints with a chat template, and a file of rows."""
    folder = tmp_path_factory.mktemp("chat")
    rows = [
        {"prompt": f"t{i} t{i + 3}", "answer": f"t{i}", "split": SPLITS[i % len(SPLITS)]}
        for i in range(30)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    places = []
    for seed in (1, 2):
        handle = tiny_loaded("llama", blocks=2, seed=seed)
        handle.tokenizer.chat_template = CHAT
        places.append(save_model(handle, folder / f"model{seed}"))
    return places[0], places[1], folder / "rows.jsonl"


def test_compare_with_everything_named(
    checkpoints: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The options reach the run, its record, and the words around it."""
    source, target, rows = checkpoints
    arguments = [
        "compare", "--source", source, "--target", target, "--task", rows, "--strategies", "naive",
        "--no-controls", "--seeds", "1", "--jobs", "0", "--template", "chat", "--max-length", "5",
        "--source-dtype", "bfloat16", "--source-device", "cpu", "--out", tmp_path / "run",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert "source   model1  2 blocks × 32" in done.stderr
    assert done.stderr.count("note     task 'rows', split 'train'") == 1
    assert "were cut at 5 tokens" in done.stderr
    plan = json.loads((tmp_path / "run" / "results.json").read_text())["plan"]
    assert plan["template"] == "chat"
    assert plan["pair"]["source_dtype"] == "bfloat16" and plan["pair"]["device"] in ("cpu", "cuda")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--source", "org/none", "--target", "org/none"], 2, "not in the Hugging Face cache"),
        (["--source", "./none.gguf", "--target", "./none.gguf"], 2, "no such model file"),
        (["--device", "abacus"], 2, "device 'abacus' cannot be used"),
        (["--template", "poem"], 2, "poem"),
        (["--source-quant", "3bit"], 2, "3bit"),
    ],
)
def test_bad_models_end_with_one_message(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    command = ["compare", "--strategies", "naive", "--task", "arith", "--jobs", "0", *arguments]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert "Traceback" not in done.output


def test_inspect_shows_devices_and_revisions(checkpoints: tuple[Path, Path, Path]) -> None:
    source, target, _ = checkpoints
    command = [
        "inspect",
        str(source),
        str(target),
        "--source-dtype",
        "bfloat16",
        "--format",
        "json",
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    described = json.loads(done.stdout)
    assert described["source"]["dtype"] == "bfloat16" and described["target"]["dtype"] == "float32"
    assert described["source"]["revision"] is None


def test_out_of_memory_in_a_cell_is_a_failed_cell(
    checkpoints: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    from pktkit.compare import cells
    from pktkit.errors import EXIT_STRATEGY_FAILED

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: tried to allocate 64 bytes")

    monkeypatch.setattr(cells, "run_transfer", fail)
    source, target, rows = checkpoints
    arguments = [
        "compare", "--source", source, "--target", target, "--task", rows, "--strategies", "naive",
        "--no-controls", "--seeds", "1", "--jobs", "0", "--out", tmp_path / "run",
    ]  # fmt: skip
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == EXIT_STRATEGY_FAILED
    assert "out of memory on this machine (tried to allocate 64 bytes). Lower --set" in done.stderr

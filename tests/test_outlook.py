"""The pair doctor and the plan: what is told without weights agrees with what running says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from tiny_ggufs import write_gguf
from tiny_tokenizers import byte_level, word_level
from tiny_transfers import SOURCE, TARGET, data_for, word_task

from pktkit.checkpoints.outline import NOT_STATED, licence_of, outline
from pktkit.cli import main
from pktkit.compare.plan import PairSpec
from pktkit.components import Choice, Strategy
from pktkit.errors import EXIT_DOES_NOT_FIT, EXIT_OK, EXIT_PAIR_INCOMPATIBLE, PktkitError
from pktkit.journal import Journal
from pktkit.outlook import room
from pktkit.outlook.forecast import cache_hits
from pktkit.outlook.outlines import outline_pair
from pktkit.outlook.verdicts import Word, judge
from pktkit.pair import load_pair
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded
from pktkit.touched import Touched
from pktkit.transfer import run_transfer

REGISTRY = Registry.discover()
STRATEGIES = ("latent", "latent-ridge", "seeking", "pissa", "transplant", "kd")
KINDS = (
    "wider source",
    "other grouped queries",
    "smaller source, deeper target",
    "narrow target",
    "another family",
    "other tokens",
)
FOREIGN = tuple(f"ß{number}" for number in range(40))


def saved(folder: Path, family: str, *, tokenizer: Any = None, **sizes: Any) -> str:
    if tokenizer is not None:
        sizes["vocab"] = len(tokenizer)
    handle = tiny_loaded(family, **sizes)
    if tokenizer is not None:
        handle = attrs.evolve(handle, tokenizer=tokenizer)
    handle.model.save_pretrained(folder)
    handle.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Give pairs that differ in one way each."""
    folder = tmp_path_factory.mktemp("pairs")
    wide, narrow = saved(folder / "wide", "llama", **SOURCE), saved(folder / "s", "llama", **TARGET)
    gqa = saved(folder / "gqa", "llama", **{**TARGET, "kv_heads": 4})
    tiny = saved(folder / "tiny", "llama", **{**TARGET, "width": 8, "heads": 2, "kv_heads": 1})
    ungated = saved(folder / "ungated", "gpt2", **TARGET)
    bytes_ = saved(folder / "bytes", "llama", tokenizer=byte_level(), **SOURCE)
    words = saved(folder / "words", "llama", tokenizer=word_level(FOREIGN), **TARGET)
    return {
        "wider source": (wide, narrow),
        "other grouped queries": (wide, gqa),
        "smaller source, deeper target": (narrow, wide),
        "narrow target": (wide, tiny),
        "another family": (wide, ungated),
        "other tokens": (bytes_, words),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_doctor_says_what_running_says(pairs: dict[str, Any], kind: str) -> None:
    spec = PairSpec(*pairs[kind])
    prospect = outline_pair(spec).prospect
    loaded = spec.load()
    probe = Probe(loaded, word_task(2))
    for name in STRATEGIES:
        strategy = REGISTRY.strategy(name)
        verdict = judge(strategy, prospect, REGISTRY)
        said = None
        with pytest.raises(_Done), Journal(loaded.target) as journal:
            try:
                run_transfer(
                    strategy,
                    loaded,
                    probe,
                    data_for(probe, steps=2),
                    journal,
                    REGISTRY,
                    task="words",
                )
            except PktkitError as error:
                said = str(error)
            raise _Done  # which puts the target back
        assert (verdict.word is Word.OK) is (said is None), (name, verdict, said)
        assert said is None or any(reason in said for reason in verdict.reasons), (name, said)


class _Done(Exception):
    """Ends a transfer whose target is not kept."""


def test_what_is_needed_and_what_is_impossible(pairs: dict[str, Any]) -> None:
    def word(kind: str, name: str, **how: Any) -> str:
        prospect = outline_pair(PairSpec(*pairs[kind], **how)).prospect
        return str(judge(REGISTRY.strategy(name), prospect, REGISTRY))

    assert word("narrow target", "pissa") == "needs aligner.rank=4 or less"
    assert word("another family", "transplant") == "needs injector.modules=q,k,v,o"
    assert word("other tokens", "kd") == "needs injector.output=cross-entropy"
    assert word("other tokens", "latent").startswith("impossible because the semantic map needs")
    assert word("wider source", "naive-task-vector") == "needs aligner.base=MODEL"
    packed = word("wider source", "seeking", source_quant="4bit")
    assert packed == "needs a source without --source-quant"


def test_a_component_without_declaration_is_named(pairs: dict[str, Any]) -> None:
    class Silent:
        """Says nothing."""

        def build(self, kind: str, choice: Choice) -> object:
            return object()

    prospect = outline_pair(PairSpec(*pairs["wider source"])).prospect
    verdict = judge(Strategy("own", injector=Choice("mine")), prospect, Silent())  # type: ignore[arg-type]
    assert str(verdict) == "not declared by injector 'mine'"


def test_every_built_in_component_declares(pairs: dict[str, Any]) -> None:
    prospect = outline_pair(PairSpec(*pairs["wider source"])).prospect
    for name in REGISTRY.names("strategy"):  # type: ignore[arg-type]
        verdict = judge(REGISTRY.strategy(name), prospect, REGISTRY)
        assert verdict.word is not Word.NOT_DECLARED, verdict


@pytest.mark.parametrize("tied", [False, True])
def test_shapes_without_weights_are_those_of_the_model(tmp_path: Path, tied: bool) -> None:
    place = saved(tmp_path / "model", "qwen2", tied=tied)
    found, loaded = outline(place), load_pair(place, place).source
    shapes = {n: p.shape for n, p in loaded.model.named_parameters()}
    assert {n: p.shape for n, p in found.model.named_parameters()} == shapes
    assert all(p.is_meta for p in found.model.parameters())
    assert found.stored.parameters == sum(p.numel() for p in loaded.model.parameters())
    assert (found.stored.dtype, found.licence) == ("float32", NOT_STATED)


def test_weights_are_not_needed(tmp_path: Path) -> None:
    place = saved(tmp_path / "model", "llama")
    (tmp_path / "model" / "model.safetensors").unlink()
    found = outline(place)
    assert found.stored.bytes == 0 and "the weights are not here" in found.notes[0]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Card", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: own\n---\n", "own"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("# license: mit", NOT_STATED),
        ("---\nlicense: [\n---\n", NOT_STATED),
    ],
)
def test_the_licence_is_the_cards(tmp_path: Path, card: str, licence: str) -> None:
    (tmp_path / "README.md").write_text(card)
    assert licence_of(tmp_path) == licence


def test_a_gguf_file_is_described_by_its_header(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    write_gguf(tiny_loaded("llama", tied=False), tmp_path / "tiny.gguf")
    found = outline(str(tmp_path / "tiny.gguf"))
    assert found.stored.dtype == "float32" and found.model.config.num_hidden_layers == 3
    assert "unpacked to float32" in found.notes[0]


def test_inspect_ends_with_3_if_nothing_suits(pairs: dict[str, Any]) -> None:
    def inspected(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["inspect", *pairs["other tokens"], *arguments])

    done = inspected("--strategies", "latent", "--format", "json")
    assert done.exit_code == EXIT_PAIR_INCOMPATIBLE, done.output
    told = json.loads(done.stdout)
    assert [each["verdict"] for each in told["strategies"]] == ["impossible"]
    assert told["target"]["licence"] == NOT_STATED
    done = inspected("--strategies", "latent,naive")
    assert done.exit_code == EXIT_OK and "impossible because" in done.stdout, done.output


def test_plan_tells_and_ends_with_4_if_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["plan", "--strategies", "latent,seeking", "--no-controls", "--seeds", "1"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == EXIT_OK, done.output
    assert "depth: 1→0 3→1 5→2" in done.stdout and "decided at run time" in done.stdout
    assert "LoRA of rank 16" in done.stdout and done.stdout.endswith("fits\n")
    monkeypatch.setattr("pktkit.outlook.forecast.free_device", lambda device: 1 << 20)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == EXIT_DOES_NOT_FIT
    assert "does not fit: cpu:" in done.stdout and "budget.batch_size" in done.stdout


def test_what_changes_is_counted() -> None:
    target = tiny_loaded("llama", **TARGET)
    shape = Touched.adapter(target, _lora(rank=4, kinds=("q", "down")))
    # q is 32×32, down 32×48, in each of 3 blocks
    assert shape.parameters == 3 * 4 * (32 + 32 + 32 + 48)
    whole = sum(p.numel() for p in target.model.parameters())
    assert Touched.whole(target).parameters == whole
    one = target.anatomy.block_parameters(0)
    expected = sum(target.model.get_parameter(name).numel() for name in one)
    assert Touched.whole(target, blocks=1).parameters == expected


def _lora(**fields: Any) -> Any:
    from pktkit.training.adapters import LoraShape

    return LoraShape(**fields)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert list(room._within_limits(tmp_path)) == [500]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(room._within_limits(tmp_path)) == []


def test_readings_of_these_rows_are_counted(tmp_path: Path) -> None:
    for name, data in (("a", "rows1"), ("b", "rows2")):
        (tmp_path / name).mkdir()
        manifest = {"what": {"data": data}, "shards": {"s": {"bytes": 10}}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    assert cache_hits(tmp_path, ["rows1"]) == (1, 10)

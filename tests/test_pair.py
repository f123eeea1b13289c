"""Loading, comparing, hashing and saving models; every bad input has one clear message."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

from pktkit import pair as pairs
from pktkit.errors import DoesNotFitError, PairIncompatibleError, UsageError
from pktkit.pair import ModelPair, describe, load_model, load_pair, save_model, vocab_size
from pktkit.testing import FAMILIES, tiny_loaded, tiny_tokenizer

TOKENS = torch.tensor([[1, 5, 9, 13, 7]])
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a complete checkpoint that tests copy before they damage it."""
    return save_model(tiny_loaded("llama"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_keeps_every_logit(family: str, tmp_path: Path) -> None:
    handle = tiny_loaded(family)
    loaded = load_model(str(save_model(handle, tmp_path / family)))
    mask = torch.ones_like(TOKENS)
    with torch.no_grad():
        before = handle.model(TOKENS, attention_mask=mask).logits
        after = loaded.model(TOKENS, attention_mask=mask).logits
    assert torch.equal(before, after)
    assert pairs.weights_hash(loaded.model) == pairs.weights_hash(handle.model)
    assert loaded.anatomy.tied is handle.anatomy.tied
    assert (loaded.name, loaded.location) == (family, str(tmp_path / family))
    assert not loaded.model.training
    assert [path.name for path in tmp_path.iterdir()] == [family]


def test_loading_is_silent(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(saved))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_dtypes(copy: Path) -> None:
    assert load_model(str(copy), dtype="bfloat16").anatomy.head_weight.dtype is torch.bfloat16
    with pytest.raises(UsageError, match="unknown dtype 'int3'"):
        load_model(str(copy), dtype="int3")


def test_an_unusable_device_is_named(saved: Path) -> None:
    with pytest.raises(UsageError, match="device 'abacus' cannot be used"):
        load_model(str(saved), device="abacus")


def test_a_missing_directory() -> None:
    with pytest.raises(UsageError, match=r"no such model directory: '\./nowhere'"):
        load_model("./nowhere")


def test_a_file_is_not_a_directory(copy: Path) -> None:
    with pytest.raises(UsageError, match="is a file; expected a directory"):
        load_model(str(copy / WEIGHTS))


def test_a_directory_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a model directory, it has no config\.json"):
        load_model(str(tmp_path))


def test_a_damaged_configuration(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": ')
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        load_model(str(copy))


def test_an_unknown_architecture_names_the_directory(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    with pytest.raises(PairIncompatibleError, match=r"copy: architecture 'mamba' is not supported"):
        load_model(str(copy))


def test_weights_that_are_not_there(copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(UsageError, match=r"no safetensors weights.*half-written"):
        load_model(str(copy))


@pytest.mark.parametrize("kept", [0, 5, 2000])
def test_truncated_weights(copy: Path, kept: int) -> None:
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"half-written checkpoint, model\.safetensors is trunc"):
        load_model(str(copy))


def test_a_missing_shard(copy: Path) -> None:
    tensors = load_file(copy / WEIGHTS)
    shards = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(tensors)}
    save_file(
        {name: tensors[name] for name in tensors if shards[name] == "part-0.safetensors"},
        copy / "part-0.safetensors",
        metadata={"format": "pt"},
    )
    (copy / WEIGHTS).unlink()
    (copy / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UsageError, match=r"half-written checkpoint, part-1\.safetensors is miss"):
        load_model(str(copy))


@pytest.mark.parametrize("lost", ["model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_missing_keys(copy: Path, lost: str) -> None:
    tensors = load_file(copy / WEIGHTS)
    del tensors[lost]
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=f"1 weights of the architecture are missing: {lost}"):
        load_model(str(copy))


def test_weights_of_another_shape(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(
        UsageError,
        match=r"config\.json does not fit the weights: 'model\.layers\.0\.mlp\.down_proj\.weight'",
    ):
        load_model(str(copy))


def test_a_missing_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="no tokenizer"):
        load_model(str(copy))


def test_a_pair_freezes_the_source_only(saved: Path) -> None:
    pair = load_pair(str(saved), str(saved))
    assert not any(p.requires_grad for p in pair.source.model.parameters())
    assert all(p.requires_grad for p in pair.target.model.parameters())


def test_saving_over_a_model_is_refused(copy: Path) -> None:
    with pytest.raises(UsageError, match="it is not empty"):
        save_model(tiny_loaded("llama"), copy)


def test_saving_into_an_empty_directory(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    save_model(tiny_loaded("llama", blocks=1), tmp_path / "new")
    assert load_model(str(tmp_path / "new")).anatomy.n_blocks == 1


def test_saving_below_a_file_is_refused(copy: Path) -> None:
    with pytest.raises(UsageError, match="cannot save to"):
        save_model(tiny_loaded("llama", blocks=1), copy / "config.json" / "model")
    with pytest.raises(UsageError, match="it is a file"):
        save_model(tiny_loaded("llama", blocks=1), copy / "config.json")


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = tiny_loaded("llama", blocks=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handle.tokenizer, "save_pretrained", full)
    with pytest.raises(DoesNotFitError, match=r"the disk is full.*No space left on device"):
        save_model(handle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_save_that_loses_a_weight_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = tiny_loaded("llama", blocks=1)
    write = handle.model.save_pretrained

    def corrupt(directory: Path) -> None:
        write(directory)
        tensors = load_file(directory / WEIGHTS)
        tensors["lm_head.weight"][0, 0] += 1
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})

    monkeypatch.setattr(handle.model, "save_pretrained", corrupt)
    with pytest.raises(UsageError, match=r"'lm_head\.weight' does not read back bit for bit"):
        save_model(handle, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_head_untied_behind_the_configuration_is_kept(tmp_path: Path) -> None:
    handle = tiny_loaded("llama", blocks=1, tied=True)
    handle.anatomy.head.weight = torch.nn.Parameter(handle.anatomy.head_weight.detach() + 1)
    loaded = load_model(str(save_model(handle, tmp_path / "out")))
    assert not loaded.anatomy.tied
    assert torch.equal(loaded.anatomy.head_weight, handle.anatomy.head_weight)


def test_tokenizers_are_compared_by_content() -> None:
    source, target = tiny_loaded("llama"), tiny_loaded("gpt2")
    pair = ModelPair(source, target)
    assert source.tokenizer is not target.tokenizer
    assert pair.tokenizers.same
    pair.require_same_tokenizer("seeking")


def test_different_tokenizers_are_refused_with_figures() -> None:
    pair = ModelPair(tiny_loaded("llama"), tiny_loaded("llama", name="small", vocab=50))
    found = pair.tokenizers
    assert (found.same, found.source_size, found.target_size, found.shared) == (False, 61, 50, 50)
    with pytest.raises(
        PairIncompatibleError, match=r"seeking needs.*61 tokens.*'small' has 50, 50"
    ):
        pair.require_same_tokenizer("seeking")


def test_equal_vocabularies_that_encode_differently_are_not_the_same() -> None:
    plain, other = tiny_tokenizer(), tiny_tokenizer()
    from tokenizers import pre_tokenizers

    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.Punctuation()
    found = pairs.compare_tokenizers(plain, other)
    assert not found.same
    assert found.shared == found.source_size == found.target_size


def test_padded_rows_are_not_tokens() -> None:
    handle = tiny_loaded("llama", blocks=1)
    padded = attrs.evolve(handle, tokenizer=tiny_tokenizer(50))
    assert (padded.anatomy.vocab_rows, vocab_size(padded)) == (61, 50)
    assert vocab_size(attrs.evolve(handle, tokenizer=tiny_tokenizer(70))) == 61


def test_a_description_is_json() -> None:
    pair = ModelPair(tiny_loaded("llama"), tiny_loaded("gemma", blocks=2))
    described = json.loads(json.dumps(describe(pair)))
    assert described["target"]["blocks"] == 2
    assert described["target"]["tied"] is True
    assert described["source"]["kv_heads"] == 2
    assert described["source"]["dtype"] == "float32"
    assert described["tokenizer"]["same"] is True


def test_the_hash_sees_values_dtypes_and_names() -> None:
    handle = tiny_loaded("llama", blocks=1)
    first = pairs.weights_hash(handle.model)
    assert first == pairs.weights_hash(tiny_loaded("llama", blocks=1).model)
    assert first != pairs.weights_hash(tiny_loaded("mistral", blocks=1, seed=1).model)
    with torch.no_grad():
        handle.anatomy.head_weight[0, 0] += 1e-3
    assert first != pairs.weights_hash(handle.model)
    assert pairs.weights_hash(handle.model) != pairs.weights_hash(handle.model.bfloat16())

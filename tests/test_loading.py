"""Every way to name a model, and one clear message for every way it can be bad.

Nothing here asks the network: the hub is a folder of its cache's layout, and its refusals are
raised in its place.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_ggufs import write_gguf
from tiny_transfers import logits

from pktkit import memory
from pktkit.checkpoints import local_files, locate
from pktkit.checkpoints.reference import parse
from pktkit.errors import DoesNotFitError, PairIncompatibleError, PktkitError, UsageError
from pktkit.pair import LoadedModel, load_model, save_model, weights_hash
from pktkit.testing import tiny_loaded

WEIGHTS = "model.safetensors"
COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(scope="session")
def handle() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


@pytest.fixture(scope="session")
def saved(handle: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a complete checkpoint that tests copy before they damage it."""
    return save_model(handle, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def adapter(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel]:
    """Give a LoRA directory, and the base with that adapter merged by hand."""
    from peft import LoraConfig, get_peft_model

    base = load_model(str(saved))
    settings = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    settings.base_model_name_or_path = str(saved)
    attached: Any = get_peft_model(base.model, settings)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, parameter in attached.named_parameters():
            if "lora_" in name:
                parameter.normal_(0.0, 0.2)
    directory = tmp_path_factory.mktemp("adapters") / "lora"
    attached.save_pretrained(directory)
    merged = load_model(str(saved))
    factors = load_file(directory / "adapter_model.safetensors")
    with torch.no_grad():
        for name, parameter in merged.model.named_parameters():
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            if f"{stem}.lora_A.weight" in factors:
                product = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
                parameter += 6 / 2 * product
    return directory, merged


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def hub(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a cache that holds org/tiny on two branches; the hub itself is out of reach."""
    import huggingface_hub
    from huggingface_hub import constants

    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("repo_info", "list_repo_tree"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, unreachable)
    folder = tmp_path / "hub" / "models--org--tiny"
    (folder / "refs" / "pr").mkdir(parents=True)
    for ref, commit in (("main", COMMIT), ("v2", OTHER), ("pr/1", OTHER)):
        (folder / "refs" / ref).write_text(commit)
    shutil.copytree(saved, folder / "snapshots" / COMMIT)
    changed = tiny_loaded("llama", blocks=2, seed=9)
    save_model(changed, folder / "snapshots" / OTHER)
    return folder


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("org/tiny", "tiny", COMMIT),
        ("org/tiny@main", "tiny@main", COMMIT),
        ("org/tiny@v2", "tiny@v2", OTHER),
        ("org/tiny@pr/1", "tiny@pr/1", OTHER),
        (f"org/tiny@{OTHER}", f"tiny@{OTHER}", OTHER),
    ],
)
def test_a_cached_repository_is_read_without_the_network(
    hub: Path, text: str, name: str, revision: str
) -> None:
    found = locate(text)
    assert (found.name, found.revision) == (name, revision)
    assert found.path == hub / "snapshots" / revision
    assert local_files(text) is not None


def test_the_commit_travels_with_the_model(hub: Path, handle: LoadedModel) -> None:
    first, second = load_model("org/tiny"), load_model("org/tiny@v2")
    assert (first.revision, second.revision) == (COMMIT, OTHER)
    assert weights_hash(first.model) == weights_hash(handle.model)
    assert weights_hash(first.model) != weights_hash(second.model)


def test_a_cached_tokenizer_alone_sends_for_the_rest(
    hub: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries cache single files: a folder without weights is not a cached model."""
    import huggingface_hub

    (hub / "snapshots" / COMMIT / WEIGHTS).unlink()
    asked = []
    original = huggingface_hub.snapshot_download

    def download(repository: str, *, local_files_only: bool, **rest: Any) -> str:
        if local_files_only:
            return original(repository, local_files_only=True, **rest)
        asked.append((repository, rest["revision"], "*.py" in rest["allow_patterns"]))
        return str(shutil.copytree(saved, hub / "snapshots" / ("c" * 40)))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_model("org/tiny@main").revision == "c" * 40
    assert asked == [("org/tiny", "main", False)]


def _refused(name: str) -> Exception:
    """Build an error as the hub raises it."""
    import httpx2
    from huggingface_hub import errors

    kind = getattr(errors, name)
    if issubclass(kind, errors.HfHubHTTPError):
        request = httpx2.Request("GET", "https://hub")
        return kind("no", response=httpx2.Response(404, request=request))
    return kind("no")


@pytest.mark.parametrize(
    ("refusal", "text", "message"),
    [
        ("RepositoryNotFoundError", "org/none", r"no model 'org/none' on the hub, or it is pri.*"
         r"ORG/NAME\[@REVISION\].*hf auth login"),
        ("GatedRepoError", "org/none", r"'org/none' is gated: accept its terms.*hf auth login"),
        ("RevisionNotFoundError", "org/tiny@v3", "'org/tiny' has no revision 'v3'. Cached: main, "
         f"pr/1, v2, {COMMIT}, {OTHER}"),
        ("OfflineModeIsEnabled", "org/none", "'org/none' is not in the Hugging Face cache, and "
         "HF_HUB_OFFLINE"),
        ("OfflineModeIsEnabled", "org/tiny@v3", r"revision 'v3' of 'org/tiny' is not in the Hugging"
         r" Face cache, and HF_HUB_OFFLINE.*Cached: main"),
        ("LocalEntryNotFoundError", "org/none", "'org/none' is neither on this disk nor in the "
         r"Hugging Face cache, and the hub cannot be reached \(no\)"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses(
    hub: Path, monkeypatch: pytest.MonkeyPatch, refusal: str, text: str, message: str
) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise _refused(refusal)

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(UsageError, match=message):
        load_model(text)


def test_without_a_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx2
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", refuse)
    with pytest.raises(UsageError, match=r"hub cannot be reached \(Name or service not known\)"):
        load_model("org/none")
    assert load_model("org/tiny").revision == COMMIT


def test_a_full_disk(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(DoesNotFitError, match=r"does not fit the disk.*HF_HOME"):
        load_model("org/none")


def _config(**fields: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _without_weights(name: str = "", content: bytes = b"") -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / WEIGHTS).unlink()
        if name:
            (directory / name).write_bytes(content)

    return change


def _lost_tensor(directory: Path) -> None:
    tensors = load_file(directory / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


BAD: dict[str, tuple[Callable[[Path], None], type[PktkitError], str]] = {
    "pickle": (
        _without_weights("pytorch_model.bin"), UsageError,
        r"its weights are a pickle \(pytorch_model\.bin\).*use_safetensors=False\)\.save_pretrain",
    ),
    "sharded pickle": (
        _without_weights("pytorch_model.bin.index.json", b"{}"), UsageError, "weights are a pickle",
    ),
    "no weights": (_without_weights(), UsageError, r"no safetensors weights, expected model\.saf"),
    "lfs pointer": (
        _without_weights(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), UsageError,
        r"model\.safetensors is a pointer of Git LFS.*git lfs pull",
    ),
    "damaged": (
        _without_weights(WEIGHTS, b"\x10\0\0\0\0\0\0\0{"), UsageError, r"truncated or damaged \(",
    ),
    "lost tensor": (_lost_tensor, UsageError, "1 weights of the architecture are missing: model"),
    "other shapes": (
        _config(intermediate_size=40), UsageError,
        r"mlp\.down_proj\.weight' is \(32, 48\) in the weights and \(32, 40\) by config\.json, "
        r"and 5 more differ",
    ),
    "fewer blocks": (
        _config(num_hidden_layers=1), UsageError, "it says 1 blocks, the weights hold 2",
    ),
    "unknown architecture": (
        _config(model_type="mamba"), PairIncompatibleError,
        r"'mamba' is not supported.*docs/families\.md",
    ),
    "own code": (
        _config(model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"}),
        PairIncompatibleError, r"'mine' is not supported.*run only with --trust-remote-code",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_checkpoint(copy: Path, case: str) -> None:
    damage, kind, message = BAD[case]
    damage(copy)
    with pytest.raises(kind, match=message) as raised:
        load_model(str(copy))
    assert str(copy) in str(raised.value), "the message names the directory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("./nowhere", r"no such model directory: '\./nowhere'.*hub id ORG/NAME"),
        ("nowhere", r"no such model directory: 'nowhere'"),
        ("./x.gguf", r"no such model file: '\./x\.gguf'"),
        ("a/b/c", r"no such model directory: 'a/b/c'"),
        ("a/b@", "names no revision after '@'"),
        ("org/b ad", "is no hub id"),
        ("", "no such model directory: ''"),
    ],
)
def test_a_name_that_names_nothing(hub: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_model(text)


def test_names_with_signs_that_exist_are_paths(saved: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a+b@c"
    shutil.copytree(saved, odd)
    assert load_model(str(odd)).name == "a+b@c"
    assert parse("org/repo/sub/x.gguf@v1").base.file == "sub/x.gguf"


def test_shards(handle: LoadedModel, tmp_path: Path) -> None:
    handle.model.save_pretrained(tmp_path, max_shard_size="20KB")
    handle.tokenizer.save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert weights_hash(load_model(str(tmp_path)).model) == weights_hash(handle.model)
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    with pytest.raises(UsageError, match=f"{shards[1].name} is truncated or damaged"):
        load_model(str(tmp_path))


def test_an_adapter_is_merged(saved: Path, adapter: tuple[Path, LoadedModel]) -> None:
    directory, merged = adapter
    for text in (f"{saved}+{directory}", str(directory)):
        loaded = load_model(text)
        assert type(loaded.model) is type(merged.model)
        for name, parameter in merged.model.named_parameters():
            found = loaded.model.get_parameter(name)
            assert torch.allclose(found, parameter, atol=1e-6), name
    assert load_model(f"{saved}+{directory}").name == "tiny+lora"


def test_a_merged_adapter_can_be_saved(adapter: tuple[Path, LoadedModel], tmp_path: Path) -> None:
    loaded = load_model(str(adapter[0]))
    again = load_model(str(save_model(loaded, tmp_path / "out")))
    assert torch.equal(logits(again), logits(loaded))


def test_an_adapter_on_a_cached_repository(
    hub: Path, adapter: tuple[Path, LoadedModel], tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(adapter[0], tmp_path / "lora"))
    settings = json.loads((directory / "adapter_config.json").read_text())
    settings |= {"base_model_name_or_path": "org/tiny", "revision": "v2"}
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    assert locate(str(directory)).revision == OTHER
    assert locate(f"org/tiny+{directory}").revision == COMMIT


def test_bad_adapters(adapter: tuple[Path, LoadedModel], saved: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(adapter[0], tmp_path / "lora"))
    wide = save_model(tiny_loaded("llama", width=64, blocks=2), tmp_path / "wide")
    with pytest.raises(UsageError, match=r"does not go onto this base \(.*size mismatch"):
        load_model(f"{wide}+{directory}")
    with pytest.raises(UsageError, match=r"after '\+' must be an adapter"):
        load_model(f"{saved}+{wide}")
    with pytest.raises(UsageError, match="is an adapter itself"):
        load_model(f"{directory}+{directory}")
    with pytest.raises(UsageError, match=r"with an adapter to merge on load.*--source-quant"):
        load_model(f"{saved}+{directory}", quant="8bit")
    settings = json.loads((directory / "adapter_config.json").read_text())
    for base, message in ((None, "names no base model"), ("./gone", r"as its base, which is not")):
        changed = settings | {"base_model_name_or_path": base}
        (directory / "adapter_config.json").write_text(json.dumps(changed))
        with pytest.raises(UsageError, match=rf"{message}.*BASE\+"):
            load_model(str(directory))
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(UsageError, match=r"has no adapter_model\.safetensors.*is a pickle"):
        load_model(f"{saved}+{directory}")


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel]:
    """Give a GGUF file in full precision, and the model that it was written from."""
    pytest.importorskip("gguf")
    model = tiny_loaded("llama", blocks=2, seed=3)
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(model, file)
    return file, model


def test_a_gguf_file(
    gguf: tuple[Path, LoadedModel], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, original = gguf
    loaded = load_model(str(file))
    assert capfd.readouterr() == ("", ""), "loading is silent"
    assert loaded.name == "tiny"
    assert weights_hash(loaded.model) == weights_hash(original.model)
    assert torch.allclose(logits(loaded), logits(original), atol=1e-5)
    assert loaded.tokenizer("ab b")["input_ids"] == [7, 6, 5]
    assert loaded.tokenizer.eos_token_id == 2
    again = load_model(str(save_model(loaded, tmp_path / "out")))
    assert torch.equal(logits(again), logits(loaded))
    assert again.tokenizer.get_vocab() == loaded.tokenizer.get_vocab()
    assert load_model(str(file.parent), dtype="bfloat16").model.dtype is torch.bfloat16


def test_bad_ggufs(gguf: tuple[Path, LoadedModel], tmp_path: Path) -> None:
    file, _ = gguf
    with pytest.raises(UsageError, match="a GGUF file, which is unpacked"):
        load_model(str(file), quant="4bit")
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"nothing of the sort")
    with pytest.raises(UsageError, match=r"not a GGUF file, or a damaged one: it begins with b'no"):
        load_model(str(bad))
    bad.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"bad\.gguf: cannot read the GGUF file"):
        load_model(str(bad))
    shutil.copy(file, tmp_path / "second.gguf")
    with pytest.raises(UsageError, match=r"holds 2 GGUF files: bad\.gguf, second\.gguf"):
        load_model(str(tmp_path))


def test_a_gguf_needs_its_package(
    gguf: tuple[Path, LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'pktkit\[gguf\]'"):
        load_model(str(gguf[0]))


def test_code_of_a_checkpoint_runs_only_when_asked(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    (copy / "mine.py").write_text(
        "from transformers import LlamaForCausalLM\nclass Mine(LlamaForCausalLM):\n    pass\n"
    )
    _config(auto_map={"AutoModelForCausalLM": "mine.Mine"})(copy)
    assert type(load_model(str(copy)).model).__name__ == "LlamaForCausalLM"
    assert type(load_model(str(copy), trust_remote_code=True).model).__name__ == "Mine"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.0 GiB). Tried to allocate 1 GB"),
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=["cuda", "cpu", "mps", "python", "mmap"],
)
def test_out_of_memory_says_what_to_lower(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: object, **__: object) -> None:
        raise error

    assert memory.is_out_of_memory(error)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(DoesNotFitError, match=r"loading '.*' to cpu: out of memory.*--dtype bfl"):
        load_model(str(saved))
    told = str(memory.does_not_fit(error))
    assert "budget.batch_size" in told
    assert ("the GPU (Tried to allocate 2.00 GiB)" in told) == ("CUDA" in str(error))


def test_what_is_not_out_of_memory() -> None:
    for error in (ValueError("out of memory"), RuntimeError("size mismatch"), OSError(28, "full")):
        assert not memory.is_out_of_memory(error)


def test_an_unusable_device_lists_those_there_are(saved: Path) -> None:
    with pytest.raises(UsageError, match=r"device 'abacus' cannot be used: .*Here: cpu"):
        load_model(str(saved), device="abacus")
    assert load_model(str(saved), device="auto").model.device.type in ("cpu", "cuda", "mps")


def test_a_quantised_source_needs_its_package(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package bitsandbytes.*pktkit\[quant\]"):
        load_model(str(saved), quant="8bit")
    with pytest.raises(UsageError, match="unknown quantisation '3bit'"):
        load_model(str(saved), quant="3bit")

"""Find, check and read a model directory, with one clear error for each way it can be bad.

Safetensors only, and no code from a checkpoint is ever run. A checkpoint is checked before it is
read, because a half-written one otherwise fails deep inside a library, or loads with random
weights in place of the missing ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from pktkit.checkpoints.library import is_tied, quiet, short_reason
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
_HUB_PATTERNS = ["*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja"]


def resolve(reference: str) -> Path:
    """Return the local directory of a model, downloading a hub id if it is not cached.

    Raises:
        UsageError: neither a directory nor a model that the hub or its cache can give.
    """
    path = Path(reference).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError(f"'{reference}' is a file; expected a model directory or a hub id.")
    if reference.startswith((".", "~", os.sep)) or reference.count("/") != 1:
        raise UsageError(f"no such model directory: '{reference}'.")
    return _from_hub(reference)


def check_directory(directory: Path) -> None:
    """Check that a directory holds a complete checkpoint of a supported architecture.

    Only headers are read.

    Raises:
        UsageError: no model directory, or a half-written one.
        PairIncompatibleError: the architecture is not supported.
    """
    model_type = _read_json(directory, "config.json").get("model_type")
    if not isinstance(model_type, str):
        raise UsageError(f"{directory}: config.json names no model_type.")
    try:
        family_of(model_type)
    except PairIncompatibleError as error:
        raise PairIncompatibleError(f"{directory}: {error}") from error
    for shard in _shards(directory):
        _check_shard(directory, shard)
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise UsageError(
            f"{directory}: no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the tokenizer beside the model."
        )


def read_model(
    directory: Path, *, dtype: str, device: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a checked directory. The model is in eval mode on `device`.

    Raises:
        UsageError: the checkpoint lacks weights that the architecture needs, weights have other
            shapes, the tokenizer cannot be read, or dtype or device do not exist.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{dtype}'. Known: {', '.join(DTYPES)}.")
    place = _device(device)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise UsageError(
                f"{directory}: cannot read the tokenizer: {short_reason(error)}"
            ) from error
        try:
            loader: Any = AutoModelForCausalLM
            model, info = loader.from_pretrained(
                directory,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:
            raise UsageError(
                f"{directory}: cannot read the model: {short_reason(error)}"
            ) from error
    _check_complete(directory, model, set(info["missing_keys"]))
    return cast("PreTrainedModel", model.to(place).eval()), tokenizer


def _from_hub(reference: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference, allow_patterns=_HUB_PATTERNS))
    except Exception as error:
        raise UsageError(
            f"'{reference}' is neither a directory nor in the Hugging Face cache, and the hub did "
            f"not give it ({short_reason(error)}). Check the name, or download it while online."
        ) from error


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        hint = " It holds a PEFT adapter." if (directory / "adapter_config.json").exists() else ""
        raise UsageError(f"{directory}: not a model directory, it has no {name}.{hint}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}: {name} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{directory}: {name} is not a JSON object.")
    return value


def _shards(directory: Path) -> tuple[str, ...]:
    if (directory / WEIGHTS).is_file():
        return (WEIGHTS,)
    if (directory / INDEX).is_file():
        weight_map = _read_json(directory, INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UsageError(f"{directory}: {INDEX} has no weight_map.")
        return tuple(sorted(set(map(str, weight_map.values()))))
    raise UsageError(
        f"{directory}: no safetensors weights, expected {WEIGHTS} or {INDEX}. The checkpoint is "
        "half-written, or in another format; pktkit reads safetensors only."
    )


def _check_shard(directory: Path, shard: str) -> None:
    from safetensors import safe_open

    if not (directory / shard).is_file():
        raise UsageError(f"{directory}: half-written checkpoint, {shard} is missing.")
    try:
        with safe_open(directory / shard, framework="pt"):
            pass
    except Exception as error:
        raise UsageError(
            f"{directory}: half-written checkpoint, {shard} is truncated or damaged "
            f"({short_reason(error)})."
        ) from error


def _check_complete(directory: Path, model: PreTrainedModel, missing: set[str]) -> None:
    if is_tied(model) and not _is_missing(model.get_input_embeddings(), model, missing):
        missing = {name for name in missing if not name.startswith("lm_head.weight")}
    if missing:
        shown = ", ".join(sorted(missing)[:3]) + (", …" if len(missing) > 3 else "")
        raise UsageError(
            f"{directory}: half-written checkpoint, {len(missing)} weights of the architecture "
            f"are missing: {shown}."
        )


def _is_missing(module: Any, model: PreTrainedModel, missing: set[str]) -> bool:
    return any(
        f"{name}.weight" in missing for name, other in model.named_modules() if other is module
    )


def _device(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except Exception as error:
        raise UsageError(f"device '{device}' cannot be used: {short_reason(error)}") from error
    return place

"""Check and read a model directory, with one clear error for each way it can be bad.

Safetensors only, and no code from a checkpoint is run unless asked for. A checkpoint is checked
before it is read, because a half-written one otherwise fails deep inside a library, or loads with
random weights in place of the missing ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from pktkit.checkpoints.library import has_pickle, is_tied, quiet, short_reason
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.families import family_of
from pktkit.quantised import keep_packing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16", "float16", "auto")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MODEL_PATTERNS = ("*.json", "model*.safetensors", "*.model", "*.txt", "*.jinja", "README.md")
"""The files of a repository that loading needs, and the card, which names the licence."""
DESCRIPTION_PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja", "README.md")
"""Those that tell what a model is, without weights."""

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tekken.json",
)
DECLARED = "tokenizer_class"
GENERIC = "TokenizersBackend"
"""The class of tokenizers that are nothing but their `tokenizer.json`."""

_LFS = b"version https://git-lfs"
"""How the files begin that Git leaves in place of large ones it has not downloaded."""


@attrs.frozen
class Reading:
    """How a directory is read.

    Arguments:
        dtype: one of `DTYPES`; `"auto"` is the checkpoint's own.
        device: where the model goes.
        quantisation: what transformers quantises with while it loads; None keeps weights as they
            are.
        code: whether the checkpoint's own modules may be run.
        parts: where each part goes, see `pktkit.checkpoints.spreading`; None for all to `device`.
    """

    dtype: str
    device: torch.device
    quantisation: Any = None
    code: bool = False
    parts: Mapping[str, int | str] | None = None


def check_directory(directory: Path, *, code: bool = False) -> None:
    """Check that a directory holds a complete checkpoint of a supported architecture.

    Only headers are read.

    Arguments:
        code: whether the checkpoint's own modules may be run.

    Raises:
        UsageError: no model directory, or a half-written one.
        PairIncompatibleError: the architecture is not supported.
    """
    check_config(directory, code=code)
    for shard in _shards(directory):
        _check_shard(directory, shard)
    if not has_tokenizer(directory):
        raise UsageError(
            f"{directory}: no tokenizer (looked for {', '.join(_TOKENIZER_FILES)}). "
            "Save the tokenizer beside the model."
        )


def check_config(directory: Path, *, code: bool = False) -> None:
    """Check that a directory holds the configuration of a supported architecture.

    Arguments and errors as in `check_directory`.
    """
    config = _read_json(directory, "config.json")
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UsageError(f"{directory}: config.json names no model_type.")
    try:
        family_of(model_type)
    except PairIncompatibleError as error:
        own = " It comes with code of its own, which is run only with --trust-remote-code."
        hint = own if "auto_map" in config and not code else ""
        raise PairIncompatibleError(f"{directory}: {error}{hint}") from error


def is_complete(directory: Path) -> bool:
    """Return whether configuration and all weights lie in a directory, whatever they hold.

    A pickle counts: downloading again would not help.
    """
    try:
        _read_json(directory, "config.json")
        return all((directory / shard).is_file() for shard in _shards(directory))
    except UsageError:
        return has_pickle(directory) != ""


def is_described(directory: Path) -> bool:
    """Return whether a directory says what its model is: configuration and tokenizer.

    Of an adapter, its own configuration does.
    """
    if (directory / "adapter_config.json").is_file():
        return True
    return (directory / "config.json").is_file() and has_tokenizer(directory)


def read_model(directory: Path, how: Reading) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a checked directory. The model is in eval mode on its device.

    Raises:
        UsageError: the checkpoint lacks weights that the architecture needs, its weights and its
            configuration disagree, the tokenizer cannot be read, or it cannot be quantised.
    """
    if how.dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{how.dtype}'. Known: {', '.join(DTYPES)}.")
    tokenizer = read_tokenizer(directory, code=how.code)
    from transformers import AutoModelForCausalLM

    placing: dict[str, Any] = {} if how.parts is None else {"device_map": dict(how.parts)}
    if how.quantisation is not None:
        # quantised while it loads, so it must load where it stays
        placing = {"device_map": {"": how.device}} | placing
        placing["quantization_config"] = how.quantisation
    with quiet():
        try:
            loader: Any = AutoModelForCausalLM
            model, info = loader.from_pretrained(
                directory,
                dtype=how.dtype,
                use_safetensors=True,
                trust_remote_code=how.code,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # listed below, in our words
                **placing,
            )
        except MemoryError:
            raise
        except Exception as error:
            raise UsageError(
                f"{directory}: cannot read the model: {short_reason(error)}"
            ) from error
    _check_agreement(directory, model, info)
    _check_complete(directory, model, set(info["missing_keys"]))
    if how.quantisation is not None:
        keep_packing(model)
    if not placing:
        model = model.to(how.device)
    return cast("PreTrainedModel", model.eval()), tokenizer


def has_tokenizer(directory: Path) -> bool:
    """Return whether a directory holds a tokenizer."""
    return any((directory / name).is_file() for name in _TOKENIZER_FILES)


def read_tokenizer(directory: Path, *, code: bool = False) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a directory.

    Raises:
        UsageError: it cannot be read.
    """
    from transformers import AutoTokenizer

    with quiet():
        try:
            found = AutoTokenizer.from_pretrained(
                directory, local_files_only=True, trust_remote_code=code
            )
            return _as_declared(found, directory)
        except Exception as error:
            raise UsageError(
                f"{directory}: cannot read the tokenizer: {short_reason(error)}"
            ) from error


def _as_declared(found: PreTrainedTokenizerBase, directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `tokenizer.json` describes, where the directory declares that.

    For some architectures, `qwen2` among them, transformers takes the architecture's own class
    whatever is declared, because older checkpoints name a wrong one. That class rebuilds a
    tokenizer from its words and merges, and of one that is no BPE nothing is left. The class
    `TokenizersBackend` is declared only where a tokenizer was written as it was.
    """
    config = directory / "tokenizer_config.json"
    if type(found).__name__ == GENERIC or not (directory / "tokenizer.json").is_file():
        return found
    if not config.is_file() or json.loads(config.read_text("utf-8")).get(DECLARED) != GENERIC:
        return found
    from transformers import PreTrainedTokenizerFast

    declared: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        directory, local_files_only=True
    )
    return declared


def _read_json(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    if not path.is_file():
        raise UsageError(f"{directory}: not a model directory, it has no {name}.")
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
    pickle = has_pickle(directory)
    if pickle:
        raise UsageError(
            f"{directory}: its weights are a pickle ({pickle}), which can run code when it is "
            "read; pktkit reads safetensors only. If you trust it, convert it once: python -c "
            f"\"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{directory}'"
            f", use_safetensors=False).save_pretrained('{directory}')\""
        )
    raise UsageError(
        f"{directory}: no safetensors weights, expected {WEIGHTS} or {INDEX}. The checkpoint is "
        "half-written, or in another format; pktkit reads safetensors only."
    )


def _check_shard(directory: Path, shard: str) -> None:
    from safetensors import safe_open

    if not (directory / shard).is_file():
        raise UsageError(f"{directory}: half-written checkpoint, {shard} is missing.")
    with (directory / shard).open("rb") as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise UsageError(
                f"{directory}: {shard} is a pointer of Git LFS instead of weights. Type: git lfs "
                "pull."
            )
    try:
        with safe_open(directory / shard, framework="pt"):
            pass
    except Exception as error:
        raise UsageError(
            f"{directory}: half-written checkpoint, {shard} is truncated or damaged "
            f"({short_reason(error)})."
        ) from error


def _check_agreement(directory: Path, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Refuse weights of other shapes than the configuration says, or of more blocks."""
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, held, expected = mismatched[0]
        raise UsageError(
            f"{directory}: config.json does not fit the weights: '{name}' is {tuple(held)} in the "
            f"weights and {tuple(expected)} by config.json"
            + (f", and {len(mismatched) - 1} more differ." if len(mismatched) > 1 else ".")
        )
    config: Any = model.config
    blocks, path = int(config.num_hidden_layers), family_of(config.model_type).blocks
    inside = re.compile(rf"(?:^|\.){re.escape(path.rpartition('.')[2])}\.(\d+)\.")
    found = [int(m[1]) for name in info["unexpected_keys"] if (m := inside.search(name))]
    if any(number >= blocks for number in found):
        raise UsageError(
            f"{directory}: config.json does not fit the weights: it says {blocks} blocks, the "
            f"weights hold {max(found) + 1}."
        )


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

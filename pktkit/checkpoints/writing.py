"""Write a model directory so that it appears complete and verified, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor

from pktkit.checkpoints.library import is_tied, quiet, short_reason
from pktkit.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def require_writable(directory: Path) -> None:
    """Check, before any work is done for it, that a checkpoint could be written here.

    Raises:
        UsageError: `directory` is a file, is not empty, or its parent cannot be written to.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"cannot save to '{directory}': it is a file.")
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"cannot save to '{directory}': it is not empty. Choose a new directory.")
    trial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.trial"
    try:
        trial.mkdir(parents=True)
        trial.rmdir()
    except OSError as error:
        raise UsageError(f"cannot save to '{directory}': {short_reason(error)}.") from error


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write model, generation configuration and tokenizer, verify them, then put them in place.

    Everything goes to a temporary sibling first, so `directory` never holds half a checkpoint.

    Arguments:
        extra: further text files by name.

    Raises:
        UsageError: `directory` is a file, is not empty, cannot be written, or what was written
            does not read back bit for bit.
    """
    require_writable(directory)
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir(parents=True)
        with quiet():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        for name, text in (extra or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        verify_saved(model, partial)
        os.replace(partial, directory)
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"cannot save to '{directory}': {short_reason(error)}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def verify_saved(model: PreTrainedModel, directory: Path) -> None:
    """Check that the safetensors in `directory` hold the model's weights bit for bit.

    Tied names may be stored once. If names differ, because transformers renames some on writing,
    the directory is loaded and compared as a model.

    Raises:
        UsageError: a weight is missing or differs.
    """
    state = model.state_dict()
    seen: set[str] = set()
    strangers = False
    for name, stored in _stored_tensors(directory):
        if name not in state:
            strangers = True
            continue
        _require_equal(name, state[name], stored)
        seen.add(name)
    covered = {_place(state[name]) for name in seen}
    lost = [name for name, value in state.items() if _place(value) not in covered]
    if strangers or lost or is_tied(model) != bool(model.config.tie_word_embeddings):
        _verify_by_loading(model, directory)


def _verify_by_loading(model: PreTrainedModel, directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(
            directory, dtype="auto", use_safetensors=True, local_files_only=True
        )
    saved = loaded.state_dict()
    for name, value in model.state_dict().items():
        if name not in saved:
            raise UsageError(f"saving failed: '{name}' was not written.")
        _require_equal(name, value, saved[name])


def _stored_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for shard in sorted(directory.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                yield name, weights.get_tensor(name)


def _place(value: Tensor) -> tuple[int, torch.Size, torch.device]:
    return value.data_ptr(), value.shape, value.device


def _require_equal(name: str, expected: Tensor, stored: Tensor) -> None:
    same = stored.dtype == expected.dtype and stored.shape == expected.shape
    if not same or not torch.equal(_bits(stored), _bits(expected.detach().cpu())):
        raise UsageError(f"saving failed: '{name}' does not read back bit for bit.")


def _bits(value: Tensor) -> Tensor:
    return value.contiguous().reshape(-1).view(torch.uint8)

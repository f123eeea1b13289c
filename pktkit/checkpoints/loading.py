"""From a model's name to a model in memory, whatever form its checkpoint has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pktkit.checkpoints import adapter as adapters
from pktkit.checkpoints.gguf import read_gguf
from pktkit.checkpoints.locating import Located, locate
from pktkit.checkpoints.placement import AUTO, usable_device
from pktkit.checkpoints.reading import (
    DTYPES,
    Reading,
    check_directory,
    has_tokenizer,
    read_model,
    read_tokenizer,
)
from pktkit.checkpoints.spreading import SPREAD, spread_map
from pktkit.errors import UsageError
from pktkit.memory import within_memory
from pktkit.quantised import quantisation

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOWER = (
    "Load it with --dtype bfloat16, a source in --source-quant 8bit or 4bit, or the two models on "
    "different devices (--source-device, --target-device)."
)


@attrs.frozen
class Loading:
    """How one model is loaded.

    Arguments:
        dtype: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for the checkpoint's own.
        device: torch device; or `"auto"`: the first GPU, else Apple's, else the CPU; or
            `"spread"`, for a source that is only read: all devices and host memory.
        quant: `"none"`, or `"8bit"` or `"4bit"` by bitsandbytes, for a source that is only read.
        trust_remote_code: whether modules that lie beside the weights are run.
    """

    dtype: str = "float32"
    device: str = "cpu"
    quant: str = "none"
    trust_remote_code: bool = False


@attrs.frozen(eq=False)
class Read:
    """A model in memory with its tokenizer, and the files it came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    files: Located


def load(reference: str, how: Loading) -> Read:
    """Load a model in eval mode.

    Arguments:
        reference: see `pktkit.checkpoints.reference`.

    Raises:
        UsageError: no such model, a bad checkpoint, or dtype, device or quantisation that do not
            exist here.
        PairIncompatibleError: the architecture is not supported.
        DoesNotFitError: the model does not fit the memory of the device, or the disk.
    """
    if how.dtype not in DTYPES:
        raise UsageError(f"unknown dtype '{how.dtype}'. Known: {', '.join(DTYPES)}.")
    device = usable_device(AUTO if how.device == SPREAD else how.device)
    files = locate(reference, code=how.trust_remote_code)
    with within_memory(f"loading '{reference}' to {device}", LOWER):
        model, tokenizer = _read(reference, files, how, device)
    return Read(model, tokenizer, files)


def _read(
    reference: str, files: Located, how: Loading, device: torch.device
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    plain, spread = how.quant == "none", how.device == SPREAD
    if spread and (files.is_gguf or files.adapter is not None or not plain):
        raise UsageError(
            f"'{reference}' cannot be spread: that takes a plain checkpoint of safetensors, "
            "without adapter and --source-quant. Name one device."
        )
    if not plain and (files.is_gguf or files.adapter is not None):
        what = "a GGUF file, which is unpacked" if files.is_gguf else "with an adapter to merge"
        raise UsageError(
            f"'{reference}' is {what} on load; --source-quant takes a checkpoint of safetensors. "
            "Leave out --source-quant."
        )
    if files.is_gguf:
        model, tokenizer = read_gguf(files.path, dtype=how.dtype)
    else:
        code = how.trust_remote_code
        check_directory(files.path, code=code)
        packing = None if plain else quantisation(how.quant, how.dtype)
        parts = spread_map(files.path, how.dtype) if spread else None
        how_read = Reading(how.dtype, device, packing, code, parts)
        model, tokenizer = read_model(files.path, how_read)
    if files.adapter is not None:
        model = adapters.merge(model, files.adapter)
        if has_tokenizer(files.adapter):
            tokenizer = read_tokenizer(files.adapter)
    placed: Any = model
    return (placed.to(device) if plain and not spread else placed), tokenizer

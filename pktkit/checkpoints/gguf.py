"""GGUF files: dequantised into an ordinary model that trains and saves like any other."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pktkit.checkpoints.library import quiet, short_reason
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.families import family_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAGIC = b"GGUF"


def read_gguf(file: Path, *, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read model and tokenizer of a GGUF file; all weights in `dtype`, on the CPU.

    Raises:
        UsageError: the package `gguf` is missing, or the file is damaged or of an unknown kind.
        PairIncompatibleError: the architecture is not supported.
    """
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(
            f"{file}: reading GGUF needs the package gguf. Type: pip install 'pktkit[gguf]'."
        )
    check_magic(file)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": file.name, "local_files_only": True}
    # tqdm's own bar cannot be switched off from outside
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        try:
            config = AutoConfig.from_pretrained(file.parent, **place)
            require_family(file, config.model_type)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
            loader: Any = AutoModelForCausalLM
            model, info = loader.from_pretrained(
                file.parent,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                **place,
                **_dequantised(),
            )
        except (PairIncompatibleError, MemoryError):
            raise
        except Exception as error:
            raise UsageError(
                f"{file}: cannot read the GGUF file: {short_reason(error)}."
            ) from error
    missing = {name for name in info["missing_keys"] if name != "lm_head.weight"}
    if missing:
        raise UsageError(
            f"{file}: {len(missing)} weights of the architecture are missing: "
            f"{', '.join(sorted(missing)[:3])}."
        )
    return _plain(model), tokenizer


def _dequantised() -> dict[str, Any]:
    """Return what tells transformers to unpack; before it could keep blocks it always did."""
    import transformers

    settings = getattr(transformers, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}


def _plain(model: Any) -> PreTrainedModel:
    """Remove every trace of the file, which would keep the dequantised model from being saved."""
    for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if name in vars(owner):
            delattr(owner, name)
    for flag in ("is_quantized", "quantization_method"):
        vars(model).pop(flag, None)
    model.config.name_or_path = ""
    return cast("PreTrainedModel", model.eval())


def check_magic(file: Path) -> None:
    """Refuse a file that is no GGUF file.

    Raises:
        UsageError: it is none, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            begin = stream.read(len(MAGIC))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {short_reason(error)}.") from error
    if begin != MAGIC:
        raise UsageError(f"{file}: not a GGUF file, or a damaged one: it begins with {begin!r}.")


def require_family(file: Path, model_type: str) -> None:
    """Refuse an architecture that no family describes.

    Raises:
        PairIncompatibleError: with the file named.
    """
    try:
        family_of(model_type)
    except PairIncompatibleError as error:
        raise PairIncompatibleError(f"{file}: {error}") from error

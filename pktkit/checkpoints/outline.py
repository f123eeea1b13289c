"""A model without its weights: configuration, tokenizer, and what headers and card say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from pktkit.checkpoints import adapter as adapters
from pktkit.checkpoints.gguf import check_magic, require_family
from pktkit.checkpoints.headers import Stored, stored_gguf, stored_safetensors
from pktkit.checkpoints.library import quiet, short_reason
from pktkit.checkpoints.locating import Located, locate
from pktkit.checkpoints.reading import check_config, has_tokenizer, read_tokenizer
from pktkit.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOT_STATED = "not stated"
CARD = "README.md"


@attrs.frozen(eq=False)
class Outline:
    """What can be told of a model without reading its weights.

    Arguments:
        model: with shapes, on the meta device.
        tokenizer: of the model, or of its adapter if that has one.
        files: where it lies.
        stored: what the weight files hold.
        licence: by the model's card, or `NOT_STATED`.
        notes: what could not be told, sentences.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    files: Located
    stored: Stored
    licence: str = NOT_STATED
    notes: tuple[str, ...] = ()


def outline(reference: str, *, dtype: str = "float32", code: bool = False) -> Outline:
    """Describe a model from configuration, tokenizer and headers.

    Of a repository of the hub that is not cached, only small files are downloaded.

    Arguments:
        reference: see `pktkit.checkpoints.reference`.
        dtype: of the parameters' shapes; `"auto"` is the checkpoint's own.
        code: whether modules that lie beside the weights may be run.

    Raises:
        UsageError: no such model, or a bad configuration or tokenizer.
        PairIncompatibleError: the architecture is not supported.
    """
    files = locate(reference, code=code, weights=False)
    found = _of_gguf(files, dtype) if files.is_gguf else _of_directory(files, dtype, code)
    if files.adapter is None:
        return found
    kind = adapters.kind_of(files.adapter)
    note = f"{files.name}: the adapter ({kind}) is merged when the model is loaded; sizes stay."
    own = has_tokenizer(files.adapter)
    return attrs.evolve(
        found,
        tokenizer=read_tokenizer(files.adapter) if own else found.tokenizer,
        notes=(*found.notes, note),
    )


def empty_model(config: Any, dtype: str, *, code: bool = False) -> PreTrainedModel:
    """Build a model of a configuration whose parameters have shapes and no values.

    Arguments:
        dtype: `"auto"` for the configuration's own.
        code: whether the checkpoint's own modules may be run.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    wanted: Any = getattr(config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    with quiet(), init_empty_weights():
        loader: Any = AutoModelForCausalLM
        model = loader.from_config(config, dtype=wanted or torch.float32, trust_remote_code=code)
    model.tie_weights()
    return cast("PreTrainedModel", model.eval())


def licence_of(directory: Path) -> str:
    """Return the licence that a model card's front matter names, or `NOT_STATED`."""
    import yaml

    try:
        text = (directory / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return NOT_STATED
    opening, _, rest = text.partition("\n")
    matter, closing, _ = rest.partition("\n---")
    if opening.strip() != "---" or not closing:
        return NOT_STATED
    try:
        card = yaml.safe_load(matter)
    except yaml.YAMLError:
        return NOT_STATED
    if not isinstance(card, dict):
        return NOT_STATED
    named = card.get("license")
    if named == "other":
        named = card.get("license_name") or named
    listed = named if isinstance(named, list) else [named]
    return ", ".join(str(each) for each in listed if each) or NOT_STATED


def _of_directory(files: Located, dtype: str, code: bool) -> Outline:
    from transformers import AutoConfig

    directory = files.path
    check_config(directory, code=code)
    tokenizer = read_tokenizer(directory, code=code)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                directory, local_files_only=True, trust_remote_code=code
            )
            model = empty_model(config, dtype, code=code)
    except Exception as error:  # whatever a configuration that fits no model raises
        raise UsageError(
            f"{directory}: config.json describes no model: {short_reason(error)}."
        ) from error
    stored, notes = stored_safetensors(directory), tuple[str, ...]()
    if not stored.bytes:
        notes = (f"{files.name}: the weights are not here; dtype is what config.json says.",)
        named = getattr(config, "dtype", None)
        stored = Stored("" if named is None else str(named).removeprefix("torch."))
    return Outline(model, tokenizer, files, stored, licence_of(directory), notes)


def _of_gguf(files: Located, dtype: str) -> Outline:
    file = files.path
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(
            f"{file}: reading GGUF needs the package gguf. Type: pip install 'pktkit[gguf]'."
        )
    check_magic(file)
    from transformers import AutoConfig, AutoTokenizer

    place = {"gguf_file": file.name, "local_files_only": True}
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        try:
            config = AutoConfig.from_pretrained(file.parent, **place)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        except Exception as error:
            raise UsageError(
                f"{file}: cannot read the GGUF file: {short_reason(error)}."
            ) from error
    require_family(file, config.model_type)
    if dtype == "auto":
        dtype = "float32"
    model = empty_model(config, dtype)
    note = f"{files.name}: a GGUF file is unpacked to {dtype} when it is loaded."
    return Outline(model, tokenizer, files, stored_gguf(file), licence_of(file.parent), (note,))

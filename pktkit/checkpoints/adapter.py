"""PEFT adapters on disk: recognise, find the base, merge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pktkit.checkpoints.library import has_pickle, quiet, short_reason
from pktkit.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PATTERNS = (CONFIG, WEIGHTS)


def is_adapter(path: Path) -> bool:
    """Return whether a path is the directory of an adapter, without a model of its own."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def is_complete(directory: Path) -> bool:
    """Return whether an adapter and its weights are there."""
    return (directory / CONFIG).is_file() and (directory / WEIGHTS).is_file()


def base_of(directory: Path) -> tuple[str, str]:
    """Return the base that an adapter was trained on, and its revision (may be empty).

    Raises:
        UsageError: the adapter does not say, or cannot be read.
    """
    settings = _read_config(directory)
    name = settings.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise UsageError(
            f"{directory}: the adapter names no base model. Name it: BASE+{directory}."
        )
    revision = settings.get("revision")
    return name, revision if isinstance(revision, str) else ""


def kind_of(directory: Path) -> str:
    """Return the type of an adapter, as PEFT calls it, with the rank if it has one.

    Raises:
        UsageError: its configuration cannot be read.
    """
    settings = _read_config(directory)
    rank = settings.get("r")
    return f"{settings.get('peft_type', '?')}{f' of rank {rank}' if rank else ''}"


def merge(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Merge an adapter into a model and return the model, with its own modules again.

    Raises:
        UsageError: the adapter is incomplete, cannot be merged, or was made for another model.
    """
    kind = _read_config(directory).get("peft_type", "?")
    if not (directory / WEIGHTS).is_file():
        pickle = has_pickle(directory)
        hint = f" {pickle} is a pickle, which can run code when it is read." if pickle else ""
        raise UsageError(f"{directory}: the adapter has no {WEIGHTS}.{hint}")
    from peft import PeftModel

    with quiet():
        try:
            attached: Any = PeftModel.from_pretrained(model, str(directory))
        except Exception as error:
            raise UsageError(
                f"{directory}: the adapter does not go onto this base ({_mismatch(error)}). Name "
                f"the model it was trained on: BASE+{directory}."
            ) from error
        if not hasattr(attached, "merge_and_unload") or not hasattr(
            attached.base_model, "merge_and_unload"
        ):
            raise UsageError(
                f"{directory}: adapters of type {kind} cannot be merged into weights; pktkit "
                "takes those that can, such as LORA."
            )
        return cast("PreTrainedModel", attached.merge_and_unload(safe_merge=True).eval())


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        settings = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}: {CONFIG} cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{directory}: {CONFIG} is not a JSON object.")
    return settings


def _mismatch(error: Exception) -> str:
    """Return the line of an error that says what does not fit, rather than its title."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line[:200].rstrip(".") for line in lines if "size mismatch" in line), "") or (
        short_reason(error)
    )

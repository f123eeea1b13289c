"""Write what a transfer made, in the form asked for, so that it appears verified or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.checkpoints import appearing, verify_saved
from pktkit.checkpoints.verifying import verify_loads
from pktkit.checkpoints.writing import write_files
from pktkit.errors import UsageError
from pktkit.outputs.adapter import write_adapter
from pktkit.outputs.card import ADAPTER, CHECKPOINT, DELTA, adapter_sentence, model_card
from pktkit.outputs.delta import apply_delta, read_manifest, write_delta
from pktkit.outputs.lineage import peft_base
from pktkit.pair import weights_hash

if TYPE_CHECKING:
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel

KINDS = (CHECKPOINT, ADAPTER, DELTA)
RECORD = "transfer.json"
RECIPE = "recipe.yaml"
CARD = "README.md"


@attrs.frozen
class Saving:
    """The form that a changed target is written in.

    Arguments:
        kind: one of `KINDS`.
        rank: largest rank of an adapter; None for the least one that is exact.
        max_shard_size: of one file of a checkpoint's weights, such as `5GB`.
    """

    kind: str = attrs.field(default=CHECKPOINT, validator=attrs.validators.in_(KINDS))
    rank: int | None = None
    max_shard_size: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.rank is not None and self.kind != ADAPTER:
            raise UsageError(f"--rank is of an adapter; with --save {self.kind} leave it out.")
        if self.max_shard_size is not None and self.kind != CHECKPOINT:
            raise UsageError(
                f"--max-shard-size is of a checkpoint; with --save {self.kind} leave it out."
            )


def save(
    target: LoadedModel,
    journal: Journal,
    directory: Path,
    how: Saving,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the target as a checkpoint, adapter or delta, with recipe, record and model card.

    Arguments:
        target: as it is after the change.
        journal: holds what was changed.
        directory: new or empty.
        record: what was done, as `pktkit.outputs.transferring` gathers it.

    Returns:
        The record with `saved`, `verified` and `result_sha256`, as it lies in the directory.

    Raises:
        UsageError: the directory cannot be written, the change does not fit the form, or what was
            written does not read back the same. Nothing is left behind.
        DoesNotFitError: the disk is full.
    """
    result = weights_hash(target.model)
    with appearing(directory) as partial:
        figures: dict[str, Any] = {}
        if how.kind == ADAPTER:
            figures, found = write_adapter(
                target, journal, partial, rank=how.rank, base=peft_base(target)
            )
            verified = f"read by peft, {found}"
        elif how.kind == DELTA:
            figures, found = write_delta(target, journal, partial, _base(record))
            verified = f"restored bit for bit, {found}"
        else:
            verified = _write_checkpoint(target, partial, how.max_shard_size)
        full = {
            **record,
            "saved": {"kind": how.kind, **figures},
            "verified": verified,
            "result_sha256": result,
        }
        _write_texts(partial, full)
    return full


def restore(
    target: LoadedModel, delta: Path, directory: Path, *, max_shard_size: str | None = None
) -> dict[str, Any]:
    """Apply a delta to its base, in place, and write the result as a checkpoint.

    Returns and raises as `save`, and UsageError as `apply_delta`.
    """
    record = json.loads(_text(delta / RECORD))
    recorded = read_manifest(delta)["result_sha256"]
    apply_delta(target, delta)
    with appearing(directory) as partial:
        full = {
            **record,
            "saved": {"kind": CHECKPOINT},
            "verified": _write_checkpoint(target, partial, max_shard_size),
            "result_sha256": recorded,
        }
        _write_texts(partial, full)
    return full


def sentence(record: Mapping[str, Any]) -> str:
    """Return in a line what was written and how it was verified."""
    saved = record["saved"]
    held = ""
    if saved["kind"] == ADAPTER:
        held = f"{adapter_sentence(saved)}; "
    if saved["kind"] == DELTA:
        held = (
            f"{saved['parameters']} parameters, {saved['as_values']} of them as new values, "
            f"{saved['corrected']} entries corrected; "
        )
    return f"{saved['kind']}: {held}{record['verified']}"


def _write_checkpoint(target: LoadedModel, directory: Path, max_shard_size: str | None) -> str:
    write_files(target.model, target.tokenizer, directory, max_shard_size=max_shard_size)
    verify_saved(target.model, directory)
    found = verify_loads(target.model, target.tokenizer, directory)
    return f"all weights equal bit for bit, {found}"


def _write_texts(directory: Path, record: Mapping[str, Any]) -> None:
    texts = {
        RECORD: json.dumps(record, indent=2, default=str),
        RECIPE: record["recipe"],
        CARD: model_card(record),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")


def _base(record: Mapping[str, Any]) -> dict[str, Any]:
    facts = record["models"]["target"]
    return {key: facts[key] for key in ("name", "repository", "revision")}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"'{path.parent}' is no delta, it has no {path.name}.") from error

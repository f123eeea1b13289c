"""Write a model directory so that it appears complete and verified, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from pktkit.checkpoints.library import quiet, short_reason
from pktkit.checkpoints.older_names import add_older_names
from pktkit.checkpoints.verifying import Agreement, verify_loads, verify_saved
from pktkit.errors import DoesNotFitError, PktkitError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHARD_SIZE = re.compile(r"[1-9][0-9]*(\.[0-9]+)?(KB|MB|GB)")


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


def checked_shard_size(text: str | None) -> str | None:
    """Return a largest size of one file of weights, such as `5GB`; None leaves it to transformers.

    Raises:
        UsageError: it is no size.
    """
    if text is not None and not _SHARD_SIZE.fullmatch(text):
        raise UsageError(f"--max-shard-size must be a size such as 500MB or 5GB, got '{text}'.")
    return text


@contextlib.contextmanager
def appearing(directory: Path) -> Iterator[Path]:
    """Give a temporary sibling to write into, which becomes `directory` when all went well.

    Raises:
        UsageError: `directory` is a file, is not empty, or cannot be written.
        DoesNotFitError: the disk is full. In every case nothing is left behind.
    """
    require_writable(directory)
    partial = directory.parent / f".{directory.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        _open_as_usual(partial)
        os.replace(partial, directory)
    except (OSError, ValueError, SafetensorError) as error:
        raise _refusal(directory, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_files(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    max_shard_size: str | None = None,
) -> None:
    """Write weights, configurations, tokenizer and chat template as transformers does.

    `config.json` says some things under their older names too, for other readers.
    """
    sizes: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    with quiet():
        model.save_pretrained(directory, **sizes)
        tokenizer.save_pretrained(directory)
    add_older_names(directory)


def write_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    extra: Mapping[str, str] | None = None,
    max_shard_size: str | None = None,
) -> Agreement:
    """Write model, generation configuration and tokenizer, verify them, then put them in place.

    Everything goes to a temporary sibling first, so `directory` never holds half a checkpoint.

    Arguments:
        extra: further text files by name.
        max_shard_size: of one file of weights, such as `5GB`.

    Returns:
        How what was read back agrees with what is in memory.

    Raises:
        UsageError: `directory` is a file, is not empty, cannot be written, or what was written
            does not read back bit for bit, or does not say the same.
        DoesNotFitError: the disk is full.
    """
    with appearing(directory) as partial:
        write_files(model, tokenizer, partial, max_shard_size=max_shard_size)
        for name, text in (extra or {}).items():
            (partial / name).write_text(text, encoding="utf-8")
        verify_saved(model, partial)
        return verify_loads(model, tokenizer, partial)


def _open_as_usual(directory: Path) -> None:
    """Let those read the files who may read the directory; safetensors lets only the owner."""
    mode = directory.stat().st_mode & 0o666
    for file in directory.iterdir():
        file.chmod(mode)


def _refusal(directory: Path, error: Exception) -> PktkitError:
    reason = short_reason(error)
    full = isinstance(error, OSError) and error.errno in _FULL
    if full or "No space left" in reason or "os error 28" in reason:
        return DoesNotFitError(
            f"cannot save to '{directory}': the disk is full ({reason}). Nothing was left there; "
            "make room, or choose another --out."
        )
    return UsageError(f"cannot save to '{directory}': {reason}.")

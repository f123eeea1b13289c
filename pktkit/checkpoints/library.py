"""What reading and writing need of transformers, and to keep it quiet."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, log lines and progress bars of transformers for a while."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_tied(model: PreTrainedModel) -> bool:
    """Return whether LM head and embedding share storage."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    return bool(head.weight.data_ptr() == embedding.weight.data_ptr())


def has_pickle(directory: Path) -> str:
    """Return the name of a checkpoint in pickle format in a directory; empty if there is none."""
    found = (
        path.name
        for pattern in ("*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt")
        for path in sorted(directory.glob(pattern))
        if not path.name.startswith(("training_args", "optimizer", "scheduler"))
    )
    return next(found, "")


def short_reason(error: BaseException) -> str:
    """Return the first line of a message, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")

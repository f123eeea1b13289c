"""Running out of memory, on any device, said in one way."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator

from pktkit.errors import DoesNotFitError

LOWER = (
    "Lower --set budget.batch_size, raise --set budget.accumulate, or set "
    "budget.checkpointing=true; --dtype bfloat16, a smaller --max-length, --jobs 1 and a source "
    "in --source-quant 8bit take less memory too."
)
"""What to do while a strategy runs."""

_SIGNS = re.compile(
    r"out of memory|(?:can't|cannot) allocate memory|not enough memory|ALLOC_FAILED"
    r"|Invalid buffer size",
    re.IGNORECASE,
)
_ASKED = re.compile(r"tried to allocate ([\d.]+ ?(?:[KMGT]i?B|bytes))", re.IGNORECASE)
_DEVICES = {"cuda": "the GPU", "mps": "Apple's GPU", "hip": "the GPU"}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that some device ran out of memory.

    Libraries tell it as `MemoryError`, as torch's own type, as a plain `RuntimeError` (the CPU,
    Apple's GPU) or as an `OSError`.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(_SIGNS.search(str(error)))


def does_not_fit(error: BaseException, where: str = "", lower: str = LOWER) -> DoesNotFitError:
    """Word an error of `is_out_of_memory`, and give back what can be given back.

    Arguments:
        where: what was being done; may be empty.
        lower: what to do, in sentences.
    """
    _release()
    text = str(error)
    device = next((name for key, name in _DEVICES.items() if key in text.lower()), "this machine")
    asked = _ASKED.search(text)
    figure = f" ({asked[0]})" if asked else ""
    begin = f"{where}: " if where else ""
    return DoesNotFitError(f"{begin}out of memory on {device}{figure}. {lower}")


@contextlib.contextmanager
def within_memory(where: str, lower: str = LOWER) -> Iterator[None]:
    """Raise `DoesNotFitError` for whatever means that memory ran out inside.

    Arguments as in `does_not_fit`. An error that was raised from such a one counts as well.
    """
    try:
        yield
    except DoesNotFitError:
        raise
    except Exception as error:
        for cause in (error, error.__cause__):
            if cause is not None and is_out_of_memory(cause):
                raise does_not_fit(cause, where, lower) from error
        raise


def _release() -> None:
    """Hand cached blocks back to the GPU, so that what comes next finds the memory free."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()

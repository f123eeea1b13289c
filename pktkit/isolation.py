"""What keeps the fault of one plugin from becoming everybody's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from pktkit import errors
from pktkit.errors import PktkitError

FAULTS: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""What a plugin's code may raise without ending pktkit. Ctrl-C is the user's and goes through."""


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Keep what plugins print out of the result that pktkit writes to stdout."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def describe(error: BaseException) -> str:
    """Return the type and text of an exception in one line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """Return an exception's text without line breaks, even where asking for it fails."""
    try:
        return " ".join(str(error).split())
    except FAULTS as fault:
        return f"(its text raises {type(fault).__name__})"


def reworded(error: PktkitError, text: str) -> PktkitError:
    """Return an error of the same kind, hence the same exit code, with another text.

    A plugin's own subclass may take other arguments, so the nearest class of `pktkit.errors`
    stands for it.
    """
    kind = next(each for each in type(error).__mro__ if each.__module__ == errors.__name__)
    again: PktkitError = kind(text)
    return again

"""Every error a user can cause, each with its documented exit code.

Code that finds bad input raises one of these with a message that says what was wrong, what was
expected and what to do next. The command line prints the message alone; a traceback is a defect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK = 0
EXIT_STRATEGY_FAILED = 1
EXIT_USAGE = 2
EXIT_PAIR_INCOMPATIBLE = 3
EXIT_DOES_NOT_FIT = 4


class PktkitError(Exception):
    """Base of all expected errors.

    `exit_code` is the status the command line ends with when the error reaches it.

    Arguments:
        needs: in a few words, what would have to be given or changed, for tables; empty where
            nothing helps, or where the message alone says it.
    """

    exit_code = EXIT_STRATEGY_FAILED

    def __init__(self, *args: object, needs: str = "") -> None:
        super().__init__(*args)
        self.needs = needs


class UsageError(PktkitError):
    """A name, option, file or value given by the user is wrong."""

    exit_code = EXIT_USAGE


class PairIncompatibleError(PktkitError):
    """Source and target cannot be used together by the method asked for."""

    exit_code = EXIT_PAIR_INCOMPATIBLE


class DoesNotFitError(PktkitError):
    """The work does not fit the memory or disk at hand."""

    exit_code = EXIT_DOES_NOT_FIT


class StrategyError(PktkitError):
    """One strategy failed while it ran; others go on."""


class NonFiniteError(StrategyError):
    """A loss or gradient became NaN or infinite; the message names step and batch."""


class LaunchError(PktkitError):
    """Processes that train one target together cannot go on together."""


class JournalError(StrategyError):
    """The target was changed outside the journal, or a journal was misused."""


class PluginError(UsageError):
    """A plugin could not be loaded, or two plugins claim one name."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that nobody registered, listing the names that exist."""
    names = sorted(known)
    listed = ", ".join(names) if names else "none"
    return UsageError(f"unknown {kind} '{name}'.{did_you_mean(name, names)} Known: {listed}.")

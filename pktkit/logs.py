"""Structured logging to stderr; stdout belongs to results.

Lines for people when stderr is a terminal, `key=value` otherwise. `NO_COLOR` switches colours off.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

QUIET = -1
NORMAL = 0
VERBOSE = 1


def configure(verbosity: int = NORMAL) -> None:
    """Configure structlog for this process. Called by the command line, never by the library.

    Arguments:
        verbosity: below 0 errors only, 0 informs, above 0 includes debugging lines.
    """
    import structlog

    _chosen[:] = [verbosity]
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            *_rendering(terminal),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level(verbosity)),
        # Looked up for each logger: progress bars and tests replace sys.stderr.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def verbosity() -> int:
    """Return what `configure` was last given in this process; worker processes are given it."""
    return _chosen[-1]


_chosen = [NORMAL]


def level(verbosity: int) -> int:
    """Return the lowest level of the standard library that is shown."""
    if verbosity < 0:
        return logging.ERROR
    return logging.DEBUG if verbosity > 0 else logging.INFO


def get_logger(name: str = "pktkit") -> Any:
    """Return a structlog logger that writes to stderr."""
    import structlog

    return structlog.get_logger(name)


def _rendering(terminal: bool) -> list[Any]:
    """Return the last processors: how a line is written."""
    import structlog

    if terminal:
        return [
            structlog.dev.ConsoleRenderer(
                colors="NO_COLOR" not in os.environ,
                exception_formatter=structlog.dev.plain_traceback,
                pad_event_to=0,
            )
        ]
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
    ]

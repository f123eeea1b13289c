"""What the kit needs beyond pktkit itself, and the one message when it is missing."""

from __future__ import annotations

import importlib
from typing import Any

from pktkit.errors import UsageError


class MissingExtra(UsageError, ImportError):
    """A package of the extra `pktkit[testing]` is not installed."""


def needed(package: str) -> Any:
    """Import a package of the extra `testing`.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(
            f"the contract kit needs {package}, which is not installed. "
            "Install it with: pip install 'pktkit[testing]'"
        ) from error

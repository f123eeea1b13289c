"""Model directories on disk: find, check, read, write and verify them."""

from pktkit.checkpoints.library import quiet
from pktkit.checkpoints.reading import DTYPES, check_directory, read_model, resolve
from pktkit.checkpoints.writing import require_writable, verify_saved, write_model

__all__ = [
    "DTYPES",
    "check_directory",
    "quiet",
    "read_model",
    "require_writable",
    "resolve",
    "verify_saved",
    "write_model",
]

"""Models on disk and on the hub: named, found, checked, read, written and verified."""

from pktkit.checkpoints.library import quiet
from pktkit.checkpoints.loading import Loading, Read, load
from pktkit.checkpoints.locating import Located, local_files, locate
from pktkit.checkpoints.placement import resolve_device
from pktkit.checkpoints.reading import DTYPES
from pktkit.checkpoints.verifying import Agreement, verify_saved
from pktkit.checkpoints.writing import appearing, require_writable, write_model

__all__ = [
    "DTYPES",
    "Agreement",
    "Loading",
    "Located",
    "Read",
    "appearing",
    "load",
    "local_files",
    "locate",
    "quiet",
    "require_writable",
    "resolve_device",
    "verify_saved",
    "write_model",
]

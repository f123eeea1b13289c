"""What a reading is, hence where it is kept: everything it depends on, hashed."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

LIBRARIES = ("torch", "transformers", "tokenizers")
"""Packages whose versions decide a reading's bits."""

_OTHER_CODE = ("cli", "compare", "report", "testing", "zoo")
"""Rooms of this package that have no part in taking a reading."""


def _plain(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return parts as they come back from JSON, so that stored and given ones compare."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(parts), sort_keys=True))
    return plain


@attrs.frozen
class Address:
    """The address of a reading.

    Arguments:
        what: what is read: kind, weights, configuration, tokenizer, data, layers, dtype. Equal
            on every machine.
        how: what else decides its bits: code and library versions, batch size, device type.
        about: names and counts for people; no part of the address.
    """

    what: Mapping[str, Any] = attrs.field(converter=_plain)
    how: Mapping[str, Any] = attrs.field(factory=dict, converter=_plain)
    about: Mapping[str, Any] = attrs.field(factory=dict, converter=_plain, eq=False)

    @property
    def key(self) -> str:
        """The name of the reading in a cache: a SHA-256 over `what` and `how`."""
        return _hash([self.what, self.how])

    @property
    def meaning(self) -> str:
        """A SHA-256 over `what` alone: the same wherever and by whatever it was read."""
        return _hash(self.what)


def library_versions() -> dict[str, str]:
    """Return the versions of `LIBRARIES`."""
    return {name: _version(name) for name in LIBRARIES}


@functools.cache
def _version(name: str) -> str:
    """Return a package's version; reading its metadata takes milliseconds, and it stays."""
    return metadata.version(name)


@functools.cache
def reading_code() -> str:
    """Return a hash over this package's source files that may have a part in a reading.

    A version number would have to be raised by hand whenever a reading changes its meaning; this
    one cannot be forgotten.
    """
    root = Path(__file__).parent.parent
    rooms = [path for path in sorted(root.iterdir()) if path.name not in _OTHER_CODE]
    return _digest_files(_python_files(rooms), root)


def code_of(compute: Callable[..., Any]) -> str:
    """Return a hash over the package (or the single file) that a computation is defined in.

    Code whose text cannot be found gets a hash of its own each time: it is never taken for known.
    """
    called = getattr(compute, "func", compute)  # functools.partial hides what it calls
    module = sys.modules.get(getattr(called, "__module__", None) or "")
    top = sys.modules.get(module.__name__.partition(".")[0]) if module else None
    roots = [Path(path) for path in getattr(top, "__path__", ())]
    if not roots and getattr(top, "__file__", None):
        roots = [Path(str(getattr(top, "__file__")))]  # noqa: B009 - modules need not have one
    files = _python_files(roots)
    if files:
        return _digest_files(files, roots[0].parent)
    try:
        return _hash(inspect.getsource(called))
    except (OSError, TypeError):
        return uuid.uuid4().hex


def _python_files(roots: Iterable[Path]) -> tuple[Path, ...]:
    found: list[Path] = []
    for root in roots:
        found += sorted(root.rglob("*.py")) if root.is_dir() else [root] * (root.suffix == ".py")
    return tuple(found)


@functools.cache
def _digest_files(files: tuple[Path, ...], root: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        content = file.read_bytes()
        digest.update(f"{name.as_posix()}|{len(content)}|".encode())
        digest.update(content)
    return digest.hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

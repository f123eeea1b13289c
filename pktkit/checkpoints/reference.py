"""How a model is named: one grammar for every command.

    DIRECTORY                       a checkpoint, or an adapter that names its base
    FILE.gguf                       or a directory with nothing but one
    ORG/NAME[@REVISION]             on the hub; branch, tag or commit
    ORG/NAME/FILE.gguf[@REVISION]   one file of a repository
    BASE+ADAPTER                    each one of the above; the adapter is merged on load

What exists on disk is taken for what it is, whatever its name holds.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from pktkit.errors import UsageError

FORMS = "a directory, a .gguf file, or a hub id ORG/NAME[@REVISION]"
GGUF = ".gguf"


@attrs.frozen
class Place:
    """Where one checkpoint is: on this disk, or in a repository of the hub.

    Arguments:
        text: as the user wrote it.
        path: directory or file; None for a repository.
        repository: `ORG/NAME`; empty for what is on disk.
        revision: branch, tag or commit; empty for the default branch.
        file: the one file of the repository that is meant; empty for all of it.
    """

    text: str
    path: Path | None = None
    repository: str = ""
    revision: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        """Short name for tables."""
        if self.path is not None:
            path = self.path.absolute()
            return path.stem if path.suffix == GGUF else path.name
        name = Path(self.file).stem if self.file else self.repository.split("/")[1]
        return f"{name}@{self.revision}" if self.revision else name


@attrs.frozen
class Reference:
    """A model as it was named.

    Arguments:
        text: as the user wrote it.
        base: the checkpoint, or an adapter directory that names its base.
        adapter: merged into the base; None without.
    """

    text: str
    base: Place
    adapter: Place | None = None

    @property
    def name(self) -> str:
        """Short name for tables."""
        return self.base.name + (f"+{self.adapter.name}" if self.adapter else "")


def parse(text: str) -> Reference:
    """Read how a model is named. Nothing is opened or downloaded.

    Raises:
        UsageError: neither on this disk nor of the form of a hub id.
    """
    base, plus, adapter = text.rpartition("+")
    if plus and not Path(text).expanduser().exists():
        return Reference(text, _place(base), _place(adapter))
    return Reference(text, _place(text))


def _place(text: str) -> Place:
    path = Path(text).expanduser()
    if text and path.exists():
        if not path.is_dir() and path.suffix != GGUF:
            raise UsageError(f"'{text}' is a file; expected {FORMS}.")
        return Place(text, path)
    name, at, revision = text.partition("@")
    parts = name.split("/")
    local = name.startswith((".", "~", os.sep)) or not all(parts)
    if local or len(parts) == 1 or (len(parts) > 2 and not name.endswith(GGUF)):
        kind = "file" if name.endswith(GGUF) else "directory"
        raise UsageError(f"no such model {kind}: '{text}'. A model is named by {FORMS}.")
    if at and not revision:
        raise UsageError(f"'{text}' names no revision after '@': a branch, tag or commit.")
    return Place(text, repository="/".join(parts[:2]), revision=revision, file="/".join(parts[2:]))

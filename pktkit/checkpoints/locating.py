"""From a model's name to the files it is read from."""

from __future__ import annotations

from pathlib import Path

import attrs

from pktkit.checkpoints import adapter as adapters
from pktkit.checkpoints.hub import Wanted, cached, commit_of, fetch
from pktkit.checkpoints.reading import (
    DESCRIPTION_PATTERNS,
    MODEL_PATTERNS,
    is_complete,
    is_described,
)
from pktkit.checkpoints.reference import GGUF, Place, Reference, parse
from pktkit.errors import UsageError


@attrs.frozen
class Located:
    """The files of one model.

    Arguments:
        name: short name for tables.
        path: checkpoint directory, or GGUF file.
        adapter: directory of the adapter that is merged; None without.
        revision: commits of what came from the hub, `BASE` or `BASE+ADAPTER`; empty for what
            lies elsewhere.
    """

    name: str
    path: Path
    adapter: Path | None = None
    revision: str = ""

    @property
    def is_gguf(self) -> bool:
        """Whether the model is one GGUF file."""
        return self.path.suffix == GGUF and self.path.is_file()


def locate(text: str, *, code: bool = False, weights: bool = True) -> Located:
    """Find the files of a model, downloading what is not cached.

    Arguments:
        text: see `pktkit.checkpoints.reference`.
        code: whether modules of a repository are downloaded as well.
        weights: whether they are needed; without, a repository's configuration and tokenizer do.

    Raises:
        UsageError: no such model; the message says what was looked for.
        DoesNotFitError: the disk is full.
    """
    reference = parse(text)
    path = _fetched(reference.base, code, weights)
    adapter = None if reference.adapter is None else _fetched(reference.adapter, code, weights)
    if adapters.is_adapter(path):
        if adapter is not None:
            raise UsageError(
                f"'{reference.base.text}' is an adapter itself; BASE+ADAPTER takes a model and one "
                "adapter."
            )
        adapter, path = path, _fetched(_base(path), code, weights)
    elif adapter is not None and not adapters.is_adapter(adapter):
        raise UsageError(
            f"'{text}': what stands after '+' must be an adapter, but {adapter} has no "
            f"{adapters.CONFIG}."
        )
    commits = [commit_of(path.parent if path.is_file() else path)]
    if adapter is not None and commit_of(adapter):
        commits.append(commit_of(adapter))
    return Located(reference.name, path, adapter, "+".join(commits))


def local_files(text: str) -> Located | None:
    """Return the files of a model if they are here already; nothing is downloaded or raised."""
    try:
        reference: Reference = parse(text)
    except UsageError:
        return None
    place = reference.base
    path = place.path
    if path is None:
        folder = cached(place, [place.file] if place.file else MODEL_PATTERNS)
        path = None if folder is None else folder / place.file
    return None if path is None else Located(reference.name, path)


def _fetched(place: Place, code: bool, weights: bool) -> Path:
    """Return the directory or GGUF file of one place."""
    if place.path is None and not place.file and not weights:
        patterns = [*DESCRIPTION_PATTERNS, *(["*.py"] if code else [])]
        return fetch(place, Wanted(patterns, is_described))
    if place.path is None and place.file:
        return fetch(place, Wanted([place.file], lambda f: (f / place.file).is_file())) / place.file
    if place.path is None:
        patterns = [*MODEL_PATTERNS, *adapters.PATTERNS, *(["*.py"] if code else [])]
        return fetch(place, Wanted(patterns, lambda f: is_complete(f) or adapters.is_complete(f)))
    return _single_gguf(place.path) or place.path


def _single_gguf(directory: Path) -> Path | None:
    """Return the one GGUF file of a directory that holds no other model.

    Raises:
        UsageError: there are several.
    """
    if not directory.is_dir() or (directory / "config.json").is_file():
        return None
    files = sorted(directory.glob(f"*{GGUF}"))
    if len(files) > 1:
        listed = ", ".join(file.name for file in files[:4]) + (" …" if len(files) > 4 else "")
        raise UsageError(
            f"{directory} holds {len(files)} GGUF files: {listed}. Name one of them. (Parts of one "
            "model are joined with llama.cpp's gguf-split --merge first.)"
        )
    return files[0] if files else None


def _base(adapter: Path) -> Place:
    """Return where the base of an adapter is, by the adapter's own configuration."""
    name, revision = adapters.base_of(adapter)
    try:
        base = parse(f"{name}@{revision}" if revision and "@" not in name else name).base
    except UsageError as error:
        raise UsageError(
            f"{adapter}: the adapter names '{name}' as its base, which is not here: {error} Name "
            f"the base yourself: BASE+{adapter}."
        ) from error
    return base

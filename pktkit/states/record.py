"""What a directory of written states says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from pktkit.errors import UsageError

RECORD = "states.json"
READINGS = "readings"
WEIGHTS = "source.safetensors"
FORMAT = 1
"""Raised whenever the layout of the directory changes."""


@attrs.frozen
class StatesRecord:
    """Whose states were written, of what, and by what.

    Arguments:
        source: name of the source.
        location: directory or hub id it came from.
        content: hashes of its weights, other state and configuration.
        tokenizer: hash of its tokenizer.
        target: name of the target whose tokenizer cut the rows.
        target_tokenizer: hash of that tokenizer.
        dtype: precision of the source.
        state_dtype: precision that states are kept in, see `ProbeSettings`.
        max_length: longest sequence in tokens.
        blocks: blocks of the source.
        width: size of its residual stream.
        layers: blocks whose states were written; -1 is the stream before the first.
        tasks: templates by task.
        scores: by task and split, `{"evaluator": …, "items": [{item, content, score,
            prediction}]}`: what the source scored.
        written: when, ISO 8601.
        pktkit: version that wrote it.
        packages: versions of libraries.
        code: hash of the code that took the readings.
        device: type of the device they were taken on.
    """

    source: str
    location: str
    content: Mapping[str, str]
    tokenizer: str
    target: str
    target_tokenizer: str
    dtype: str
    state_dtype: str
    max_length: int
    blocks: int
    width: int
    layers: Sequence[int]
    tasks: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    written: str
    pktkit: str
    packages: Mapping[str, str]
    code: str
    device: str

    def write(self, directory: Path) -> None:
        """Write the record into a directory."""
        document = {"format": FORMAT, **attrs.asdict(self)}
        (directory / RECORD).write_text(json.dumps(document, indent=1), encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> StatesRecord:
        """Read the record of a directory.

        Raises:
            UsageError: it holds none, or one that this version cannot read.
        """
        try:
            document = json.loads((directory / RECORD).read_text(encoding="utf-8"))
            found = document.pop("format")
            if found != FORMAT:
                raise UsageError(
                    f"'{directory}' holds states in format {found}, this version of pktkit reads "
                    f"format {FORMAT}. Write them again with pktkit states write."
                )
            return cls(**document)
        except FileNotFoundError as error:
            raise UsageError(
                f"'{directory}' holds no states: it has no {RECORD}. "
                "Make such a directory with pktkit states write."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"'{directory}': {RECORD} cannot be read: {error}.") from error


def holds_states(location: str) -> bool:
    """Return whether a location is a directory that `pktkit states write` made."""
    return (Path(location).expanduser() / RECORD).is_file()

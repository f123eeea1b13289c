"""What the headers of weight files say: which tensors, how precise, how many bytes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from pktkit.errors import UsageError

_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8",
    "F8_E5M2": "float8",
    "I8": "int8",
    "U8": "uint8",
}
_LONGEST = 100 << 20
"""Bytes that a header may have by the format's own limit."""


@attrs.frozen
class Stored:
    """What lies in weight files.

    Arguments:
        dtype: of most numbers; empty if unknown.
        bytes: of the files, as far as they are here.
        parameters: numbers in them; tied ones once if stored once.
    """

    dtype: str = ""
    bytes: int = 0
    parameters: int = 0


def stored_safetensors(directory: Path) -> Stored:
    """Read the headers of a directory's safetensors; what is not here counts as nothing.

    Raises:
        UsageError: a header is damaged.
    """
    counts: Counter[str] = Counter()
    size = 0
    for file in sorted(directory.glob("model*.safetensors")):
        size += file.stat().st_size
        for name, entry in _header(file).items():
            if name != "__metadata__":
                number = 1
                for length in entry["shape"]:
                    number *= int(length)
                counts[str(entry["dtype"])] += number
    return _summed(counts, size)


def stored_gguf(file: Path) -> Stored:
    """Read the tensor list of a GGUF file; a quantised type is called as llama.cpp calls it.

    Raises:
        UsageError: it cannot be read.
    """
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(file).tensors
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise UsageError(f"{file}: cannot read the GGUF file: {error}.") from error
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    return _summed(counts, file.stat().st_size)


def _summed(counts: Counter[str], size: int) -> Stored:
    most = counts.most_common(1)
    dtype = _NAMES.get(most[0][0], most[0][0]) if most else ""
    return Stored(dtype, size, sum(counts.values()))


def _header(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= _LONGEST:
                raise ValueError("it does not begin with a header")
            header = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file.parent}: half-written checkpoint, {file.name} is truncated or damaged "
            f"({error})."
        ) from error
    if not isinstance(header, dict):
        raise UsageError(f"{file.parent}: the header of {file.name} is not a JSON object.")
    return header

"""A delta: what was added to each changed parameter, enough to restore every bit of the model.

For each changed parameter the difference is stored in the parameter's own precision. Where base
plus difference, summed in fp32, does not round to the new value (about where a value shrank to
less than half), the new value itself is stored beside it: positions in `NAME::at`, values in
`NAME::value`. A parameter that was rewritten rather than adjusted is stored as new values only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pktkit.checkpoints.library import short_reason
from pktkit.checkpoints.verifying import Agreement, agreement, logits, prompt_ids
from pktkit.errors import UsageError
from pktkit.pair import weights_hash

if TYPE_CHECKING:
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel

WEIGHTS = "delta.safetensors"
MANIFEST = "delta.json"
FORMAT = 1
AT, VALUE = "::at", "::value"
DIFFERENCE, VALUES = "difference", "values"

MOST_CORRECTED = 1 / 8
"""A parameter with a larger share of corrected entries is stored as new values."""


def is_delta(path: Path) -> bool:
    """Return whether a path is the directory of a delta."""
    return (path / MANIFEST).is_file()


def encode(name: str, before: Tensor, after: Tensor) -> tuple[str, dict[str, Tensor]]:
    """Return `DIFFERENCE` or `VALUES`, and the tensors that stand for the change, on the CPU.

    Arguments:
        name: of the parameter.
        before, after: alike in shape and dtype.
    """
    old, new = before.detach().cpu(), after.detach().cpu()
    difference = (new.float() - old.float()).to(new.dtype)
    wrong = (_bits(_sum(old, difference)) != _bits(new)).flatten()
    at = wrong.nonzero().flatten()
    if len(at) > MOST_CORRECTED * new.numel():
        return VALUES, {name: new.contiguous()}
    stored = {name: difference.contiguous()}
    if len(at):
        stored |= {name + AT: at, name + VALUE: new.flatten()[at].clone()}
    return DIFFERENCE, stored


def decode(name: str, before: Tensor, stored: Mapping[str, Tensor], how: str) -> Tensor:
    """Return the new value of one parameter, on the CPU.

    Arguments:
        name: of the parameter.
        before: its value in the base.
        stored: as `encode` gave it.
        how: `DIFFERENCE` or `VALUES`.
    """
    if how == VALUES:
        return stored[name]
    new = _sum(before.detach().cpu(), stored[name])
    if name + AT in stored:
        new.view(-1)[stored[name + AT]] = stored[name + VALUE]
    return new


def write_delta(
    target: LoadedModel, journal: Journal, directory: Path, base: Mapping[str, Any]
) -> tuple[dict[str, Any], Agreement]:
    """Write what the journal holds as a delta, and verify that it restores the target.

    Arguments:
        target: as it is after the change.
        directory: exists.
        base: what the manifest says of the base besides hash and precision, e.g. its name.

    Returns:
        Figures for the record, and the agreement of the restored model with the one in memory.

    Raises:
        UsageError: what was written does not restore the target.
    """
    from safetensors.torch import save_file

    ids = prompt_ids(target.model, target.tokenizer)
    said, result = logits(target.model, ids), weights_hash(target.model)
    parameters = dict(target.model.named_parameters())
    tensors: dict[str, Tensor] = {}
    entries: dict[str, Any] = {}
    for name in journal.changed():
        before, after = journal.before(name), parameters[name]
        how, made = encode(name, before, after)
        tensors |= made
        entries[name] = {
            "shape": list(after.shape),
            "dtype": dtype_name(after),
            "stored": how,
            "corrected": len(made.get(name + AT, ())),
        }
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    tensors.clear()
    with journal.undone():
        content = {
            "format": FORMAT,
            "base": {
                **base,
                "sha256": weights_hash(target.model),
                "dtype": common_dtype(target),
            },
            "result_sha256": result,
            "parameters": entries,
        }
        (directory / MANIFEST).write_text(json.dumps(content, indent=2), encoding="utf-8")
        apply_delta(target, directory)
        found = agreement(said, logits(target.model, ids), target.model.dtype)
    whole = sum(entry["stored"] == VALUES for entry in entries.values())
    figures = {
        "parameters": len(entries),
        "as_values": whole,
        "corrected": sum(entry["corrected"] for entry in entries.values()),
    }
    return figures, found


def apply_delta(target: LoadedModel, directory: Path) -> None:
    """Turn the base that a delta was made for into the model it restores, in place.

    Raises:
        UsageError: the delta is damaged, was made for another base, or does not restore the model
            bit for bit. The target is then as it was, but in the last case.
    """
    manifest = read_manifest(directory)
    require_base(manifest, target, directory)
    parameters = dict(target.model.named_parameters())
    stored = _stored(directory)
    for name, entry in manifest["parameters"].items():
        with torch.no_grad():
            parameters[name].copy_(decode(name, parameters[name], stored, entry["stored"]))
    if weights_hash(target.model) != manifest["result_sha256"]:
        raise UsageError(
            f"{directory}: the delta does not restore the model it was made of, {WEIGHTS} is "
            "damaged or was replaced."
        )


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read `delta.json`.

    Raises:
        UsageError: it is missing or is not a manifest.
    """
    try:
        content = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"'{directory}' is no delta, {MANIFEST} cannot be read: {short_reason(error)}."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"'{directory}': {MANIFEST} is not a delta of format {FORMAT}.")
    return content


def require_base(manifest: Mapping[str, Any], target: LoadedModel, directory: Path) -> None:
    """Refuse any target but the one that a delta was made for.

    Raises:
        UsageError: the weights are not those of the base.
    """
    base, found = manifest["base"], weights_hash(target.model)
    if base["sha256"] == found:
        return
    parameters = dict(target.model.named_parameters())
    fitting = sum(
        name in parameters and list(parameters[name].shape) == entry["shape"]
        for name, entry in manifest["parameters"].items()
    )
    raise UsageError(
        f"{directory}: this delta is of '{base.get('name', '?')}' with weights "
        f"{base['sha256'][:12]} in {base['dtype']}, but target '{target.name}' has weights "
        f"{found[:12]} in {common_dtype(target)}; {fitting} of the {len(manifest['parameters'])} "
        "changed parameters have the same name and shape. Give the target it was made from, at the "
        "same revision."
    )


def dtype_name(tensor: Tensor) -> str:
    """Return a precision as `--dtype` names it."""
    return str(tensor.dtype).removeprefix("torch.")


def common_dtype(target: LoadedModel) -> str:
    """Return the precision of all parameters; `auto` where they have several."""
    found = {dtype_name(parameter) for parameter in target.model.parameters()}
    return found.pop() if len(found) == 1 else "auto"


def _stored(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(directory / WEIGHTS)
    except Exception as error:
        raise UsageError(
            f"{directory}: {WEIGHTS} is missing or damaged ({short_reason(error)})."
        ) from error


def _sum(base: Tensor, difference: Tensor) -> Tensor:
    return (base.float() + difference.float()).to(base.dtype)


def _bits(value: Tensor) -> Tensor:
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.contiguous().view(integer[value.element_size()])

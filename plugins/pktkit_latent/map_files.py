"""Affine maps on disk: one safetensors file that knows which two models it belongs to."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.pair import LoadedModel, ModelPair, weights_hash
from pktkit.state_maps import AffineMap
from pktkit.values import Interface, LayerLink, LayerMap, TargetStates
from pktkit_latent.digest import tensor_digest

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "pktkit-maps-1"
SHOWN_DIGITS = 12
_PARTS = ("matrix", "centre", "offset")


@attrs.frozen
class Model:
    """Which model a map file was written for.

    Arguments:
        name: for messages only.
        weights: `pktkit.pair.weights_hash`.
        width: of the residual stream.
        blocks: depth.
    """

    name: str
    weights: str
    width: int
    blocks: int

    @classmethod
    def of(cls, model: LoadedModel) -> Model:
        """Describe a loaded model; reads all its weights."""
        return cls(
            model.name, weights_hash(model.model), model.anatomy.width, model.anatomy.n_blocks
        )

    def __str__(self) -> str:
        return (
            f"'{self.name}' (weights {self.weights[:SHOWN_DIGITS]}, {self.width} wide, "
            f"{self.blocks} blocks)"
        )


@attrs.frozen(eq=False)
class StoredMaps:
    """What a map file holds.

    Arguments:
        aligner: name of the aligner that made the maps.
        interface: where the states they map are read.
        layer_map: the links they were made for.
        maps: by target block; blocks that shared a map share it again.
        source, target: the models.
    """

    aligner: str
    interface: Interface
    layer_map: LayerMap
    maps: Mapping[int, AffineMap]
    source: Model
    target: Model

    def require_pair(self, pair: ModelPair, where: str) -> None:
        """Refuse another pair than the one the maps were made for.

        Raises:
            PairIncompatibleError: a model's weights differ; names both, with hashes and widths.
        """
        for role, wanted, model in (
            ("source", self.source, pair.source),
            ("target", self.target, pair.target),
        ):
            found = Model.of(model)
            if found.weights != wanted.weights:
                raise PairIncompatibleError(
                    f"{where} was made for another pair: its {role} is {wanted}, this one is "
                    f"{found}. Fit the maps again with the option 'save'."
                )


def save_maps(path: str | Path, states: TargetStates, pair: ModelPair, *, aligner: str) -> Path:
    """Write the maps of target states; a file that holds the same maps already is left alone.

    Arguments:
        path: of the file; its folder must exist.
        states: whose maps are all affine.
        pair: the models they were made for.
        aligner: its name.

    Raises:
        UsageError: the file exists with other content, cannot be written, or a map is not affine.
    """
    from safetensors.torch import save

    file = Path(path).expanduser()
    tensors, document = _packed(states)
    document |= {
        "format": FORMAT,
        "aligner": aligner,
        "interface": states.interface.value,
        "layer_map": attrs.asdict(states.layer_map),
        "source": attrs.asdict(Model.of(pair.source)),
        "target": attrs.asdict(Model.of(pair.target)),
        "content": tensor_digest(tensors),
    }
    data = save(tensors, {"pktkit": json.dumps(document, sort_keys=True)})
    try:
        if file.exists():
            if file.read_bytes() != data:
                raise UsageError(
                    f"'{file}' exists and holds something else; it is not overwritten. Delete it, "
                    "or name another file."
                )
            return file
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, file)
    except OSError as error:
        raise UsageError(f"cannot write maps to '{file}': {error.strerror or error}.") from error
    return file


def load_maps(path: str | Path) -> StoredMaps:
    """Read a map file and check that it is whole.

    Raises:
        UsageError: no such file, not a map file, or its content does not match its checksum or
            its shapes.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(
            f"there is no map file '{file}'. Write one with an aligner's option 'save'."
        )
    try:
        tensors, document = _read(file)
        if document["format"] != FORMAT:
            raise ValueError(f"format is {document['format']!r}, expected {FORMAT!r}")
        if tensor_digest(tensors) != document["content"]:
            raise ValueError("its tensors do not match their checksum")
        return _unpacked(tensors, document)
    except UsageError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise UsageError(
            f"'{file}' is not a map file, or is damaged: {error}. "
            "Write it again with an aligner's option 'save'."
        ) from error


def _packed(states: TargetStates) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors by name and the blocks they belong to; a shared map is stored once."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[int, int] = {}
    blocks, normalise = {}, []
    for block in states.blocks:
        state_map = states.maps[block]
        if not isinstance(state_map, AffineMap):
            raise UsageError(f"the map of target block {block} is not affine and cannot be saved.")
        if id(state_map) not in numbers:
            number = numbers[id(state_map)] = len(numbers)
            normalise.append(state_map.normalise)
            for part in _PARTS:
                value = getattr(state_map, part)
                if value is not None:
                    # A copy: parts of different maps may be views of one tensor.
                    tensors[f"{part}.{number}"] = value.detach().cpu().contiguous().clone()
        blocks[str(block)] = numbers[id(state_map)]
    return tensors, {"blocks": blocks, "normalise": normalise}


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stream:
        metadata = stream.metadata() or {}
        if "pktkit" not in metadata:
            raise ValueError("it carries no description of maps")
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    return tensors, json.loads(metadata["pktkit"])


def _unpacked(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> StoredMaps:
    source, target = Model(**document["source"]), Model(**document["target"])
    stored = document["layer_map"]
    layer_map = LayerMap(**(stored | {"links": [LayerLink(**link) for link in stored["links"]]}))
    maps = [
        AffineMap(
            tensors[f"matrix.{number}"],
            centre=tensors.get(f"centre.{number}"),
            offset=tensors.get(f"offset.{number}"),
            normalise=normalise,
        )
        for number, normalise in enumerate(document["normalise"])
    ]
    for state_map in maps:
        shape = tuple(state_map.matrix.shape)
        if shape != (target.width, source.width):
            raise ValueError(f"a map is {shape}, expected {(target.width, source.width)}")
        if not bool(state_map.matrix.isfinite().all()):
            raise ValueError("a map is not finite")
    return StoredMaps(
        aligner=document["aligner"],
        interface=Interface(document["interface"]),
        layer_map=layer_map,
        maps={int(block): maps[number] for block, number in document["blocks"].items()},
        source=source,
        target=target,
    )

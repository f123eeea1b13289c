"""Where a model comes from, as far as its own files tell."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pktkit
from pktkit.checkpoints.locating import local_files
from pktkit.checkpoints.reference import Place, parse
from pktkit.errors import UsageError
from pktkit.outputs.delta import common_dtype
from pktkit.pair import weights_hash

if TYPE_CHECKING:
    from pktkit.pair import LoadedModel

LIBRARIES = ("torch", "transformers", "peft", "safetensors")


def model_facts(model: LoadedModel) -> dict[str, Any]:
    """Return a model's name, repository, revision, weights hash, precision and licence.

    No path of this machine is among them. What is not known is empty.
    """
    return {
        "name": model.name,
        "repository": repository_of(model.location),
        "revision": model.revision,
        "sha256": weights_hash(model.model),
        "dtype": common_dtype(model),
        "license": license_of(model.location),
    }


def repository_of(location: str) -> str:
    """Return `ORG/NAME` of a model of the hub; empty for one from elsewhere."""
    place = _base(location)
    return "" if place is None else place.repository


def peft_base(model: LoadedModel) -> tuple[str, str]:
    """Return what peft finds a base by: repository and commit, or an absolute path."""
    place = _base(model.location)
    if place is None:
        return model.location, ""
    if place.path is not None:
        return str(place.path.absolute()), ""
    return place.repository, model.revision or place.revision


def license_of(location: str) -> str:
    """Return the licence that the card beside a model names; empty where there is none."""
    files = local_files(location)
    if files is None:
        return ""
    folder = files.path if files.path.is_dir() else files.path.parent
    named = _front_matter(folder / "README.md").get("license")
    return named if isinstance(named, str) else ""


def software() -> dict[str, str]:
    """Return the versions of Python, pktkit and the libraries that computed."""
    found = {"python": sys.version.split()[0], "pktkit": pktkit.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _base(location: str) -> Place | None:
    """Return the place of a model that is one checkpoint; None for base and adapter."""
    try:
        reference = parse(location)
    except UsageError:
        return None
    return None if reference.adapter is not None else reference.base


def _front_matter(card: Path) -> dict[str, Any]:
    """Return the YAML at the top of a model card; empty where there is none to be read."""
    import yaml

    try:
        text = card.read_text(encoding="utf-8")
        _, head, _ = text.split("---", 2) if text.startswith("---") else ("", "", "")
        content = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}

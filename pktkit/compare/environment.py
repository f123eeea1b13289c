"""On what a comparison ran: versions of packages and plugins, their code, the hardware."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from pktkit.discovery.plugins import OK

if TYPE_CHECKING:
    from pktkit.registry import Registry

PACKAGES = (
    "pktkit",
    "accelerate",
    "attrs",
    "datasets",
    "evaluate",
    "numpy",
    "peft",
    "pluggy",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
"""Packages whose version may change a number."""


@attrs.frozen
class PluginVersion:
    """A plugin that was loaded.

    Arguments:
        distribution, version: the installed package that provides it.
        code: SHA-256 of its Python files, which change while a plugin is being written and its
            version does not; empty where it is no module.
    """

    distribution: str
    version: str
    code: str


@attrs.frozen
class Hardware:
    """The machine.

    Arguments:
        platform: operating system and architecture.
        cpu: model of the processor.
        cores: that this process may use.
        memory: bytes.
        gpus: names of the devices that torch sees, where the run used one.
    """

    platform: str
    cpu: str
    cores: int
    memory: int
    gpus: tuple[str, ...] = ()


@attrs.frozen
class Environment:
    """Everything a run depends on that the plan does not say.

    Arguments:
        python: version of the interpreter.
        packages: version by name of package.
        code: SHA-256 of pktkit's own Python files.
        plugins: by name.
        hardware: the machine.
    """

    python: str
    packages: Mapping[str, str]
    code: str
    plugins: Mapping[str, PluginVersion]
    hardware: Hardware

    @classmethod
    def current(cls, registry: Registry, devices: Sequence[str]) -> Environment:
        """Describe this process.

        Arguments:
            registry: whose plugins are loaded.
            devices: torch devices of the run.
        """
        return cls(
            python=platform.python_version(),
            packages=dict(_versions()),
            code=code_hash("pktkit"),
            plugins={
                status.name: PluginVersion(
                    status.distribution, status.version, code_hash(status.value.partition(":")[0])
                )
                for status in registry.plugins.loaded
                if status.state == OK
            },
            hardware=_hardware(devices),
        )


def code_hash(module: str) -> str:
    """Return the SHA-256 of a module's or package's Python files, or "" if there is none."""
    files: list[Path] = []
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations:
            folders = [Path(place) for place in spec.submodule_search_locations]
            files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
        elif spec is not None and spec.origin and Path(spec.origin).is_file():
            files = [Path(spec.origin)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest() if files else ""


def _versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _hardware(devices: Sequence[str]) -> Hardware:
    import psutil

    from pktkit.compare.workers import available_cores

    return Hardware(
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        cores=available_cores(),
        memory=psutil.virtual_memory().total,
        gpus=() if all(device.startswith("cpu") for device in devices) else _gpus(),
    )


def _cpu() -> str:
    """Return the model of the processor; `platform.processor` does not know it on Linux."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))

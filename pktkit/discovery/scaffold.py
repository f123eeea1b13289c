"""A new plugin distribution, complete: what `pktkit plugins new` writes."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from pktkit import __version__
from pktkit.components import Kind
from pktkit.errors import UsageError
from pktkit.hookspecs import API_VERSION
from pktkit.registry import Registry

FILES: Mapping[str, str] = MappingProxyType(
    {
        "pyproject.toml.tmpl": "pyproject.toml",
        "readme.md.tmpl": "README.md",
        "gitignore.tmpl": ".gitignore",
        "workflow.yml.tmpl": ".github/workflows/tests.yml",
        "plugin.py.tmpl": "$module/__init__.py",
        "aligner.py.tmpl": "$module/aligner.py",
        "test_contract.py.tmpl": "tests/test_contract.py",
        "test_plugin.py.tmpl": "tests/test_plugin.py",
    }
)
"""Where each template goes."""

PREFIX = "pktkit-"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def render(name: str, registry: Registry) -> dict[str, str]:
    """Return the files of a new plugin by relative path.

    Arguments:
        name: of plugin, aligner and strategy; the distribution is called `pktkit-NAME`.
        registry: a name that is taken is refused.

    Raises:
        UsageError: the name is malformed or taken.
    """
    require_free(name, registry)
    words = name.split("-")
    values = {
        "name": name,
        "distribution": f"{PREFIX}{name}",
        "module": f"pktkit_{'_'.join(words)}",
        "cls": "".join(word.capitalize() for word in words),
        "api": str(API_VERSION),
        "version": __version__,
    }
    templates = resources.files("pktkit.discovery") / "templates" / "plugin"
    return {
        string.Template(path).substitute(values): string.Template(
            (templates / template).read_text(encoding="utf-8")
        ).substitute(values)
        for template, path in FILES.items()
    }


def write(files: Mapping[str, str], directory: Path) -> None:
    """Write files below a directory that is new or empty.

    Raises:
        UsageError: there is something in it already, or it cannot be written.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UsageError(f"'{directory}' exists and is not an empty directory. Give another.")
        for path, text in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"'{directory}' cannot be written: {error.strerror or error}. Give another directory."
        ) from error


def require_free(name: str, registry: Registry) -> None:
    """Refuse a name that cannot be an entry point, a component and part of a module's name.

    Raises:
        UsageError: it is malformed, or something installed has it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a plugin: lower-case letters and digits, words joined by "
            "single hyphens, a letter first, e.g. mean-shift."
        )
    if name.startswith(PREFIX):
        raise UsageError(
            f"the distribution will be called {PREFIX}{name}; leave '{PREFIX}' out of the name: "
            f"{name.removeprefix(PREFIX)}."
        )
    taken = [status.label for status in registry.plugins.loaded if status.name == name]
    taken += [
        entry.label
        for kind in (Kind.ALIGNER, Kind.STRATEGY)
        for entry in registry.entries(kind)
        if entry.component.name == name
    ]
    if taken:
        raise UsageError(f"the name '{name}' is taken by {', '.join(taken)}. Choose another.")

"""Test processes that run beside each other share the cores: torch gets one thread in each."""

from __future__ import annotations

import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory for fake distributions, on `sys.path`; what was imported from it is forgotten."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    monkeypatch.chdir(tmp_path)
    yield directory
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{directory}{os.sep}"):
            del sys.modules[name]

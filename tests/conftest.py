"""What all tests share: how test processes use the cores, garbage collection, fake distributions.

Test processes that run beside each other share the cores: torch gets one thread in each.
"""

from __future__ import annotations

import gc
import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = ("two_processes", "tutorial", "third_party", "interrupted", "compare", "contract_kit")
"""Files (`test_….py`) to begin with. Those that start other processes have few tests; xdist would
begin with files of many, and one core would wait for the other at the end."""


def pytest_configure(config):
    config.option.loadscopereorder = False  # of xdist; without it nobody asks


def pytest_collection_modifyitems(items):
    first = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Import what cells need in one go, and leave it out of later garbage collections.

    Every cell of a comparison collects garbage first. Looking through torch and transformers each
    time, 0.3 s, takes longer than most cells of these tests; workers do the same.
    """
    gc.disable()  # while nothing but imports happens, collecting costs a fifth of the time
    try:
        return (yield)
    finally:
        if "torch" in sys.modules:
            import pktkit.compare.warm  # noqa: F401
        gc.freeze()
        gc.enable()


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

"""What the documentation shows works as shown."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs
import pytest
from tiny_transfers import pair_of, word_task

from pktkit.budget import Budget
from pktkit.components import Kind
from pktkit.discovery.plugins import load_plugins
from pktkit.journal import Journal
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.training import TransferData
from pktkit.transfer import run_transfer

ROOT = Path(__file__).parent.parent


@pytest.fixture
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "own_aligner"))
    import mean_shift

    yield mean_shift
    sys.modules.pop("mean_shift")


def test_the_example_plugin_runs_beside_the_built_in_ones(plugin):
    registry = Registry(load_plugins(extra={"mean-shift": plugin}))
    strategy = registry.strategy("mean-shift")
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        data = TransferData(probe, tuple(range(6)), Budget(steps=2, batch_size=4), seed=0)
        done = run_transfer(strategy, pair, probe, data, journal, registry, task="words")
        assert done.alignment.method == "mean-shift"
        assert journal.changed()


def test_the_readme_shows_the_example_plugin_as_it_is(plugin):
    """The plugin in the README is the file, line by line."""
    readme = (ROOT / "README.md").read_text()
    shown = re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1).strip().splitlines()
    source = (ROOT / "examples" / "own_aligner" / "mean_shift.py").read_text()
    lines = iter(source.splitlines())
    for line in shown:
        assert line.strip() == "..." or any(line == other for other in lines), line


def test_the_readme_has_exactly_two_set_up_commands():
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"```sh (\w+)\n", readme) == ["main", "tests"]


def test_every_registered_strategy_and_component_is_documented():
    registry = Registry(load_plugins())
    docs = ROOT / "docs"
    pages = [ROOT / "README.md", docs / "methods.md", *sorted((docs / "methods").glob("*.md"))]
    text = "".join(page.read_text() for page in pages)
    for name in registry.names(Kind.STRATEGY):
        assert name in text, f"strategy {name} is not in the documentation"
        assert registry.strategy(name).summary


def test_every_option_of_every_component_is_documented():
    registry = Registry(load_plugins())
    for kind in (Kind.MATCHER, Kind.ALIGNER, Kind.INJECTOR, Kind.EVALUATOR):
        for name in registry.names(kind):
            for field in attrs.fields(registry.options_class(kind, name)):
                assert field.metadata.get("doc"), f"{kind} {name}: option {field.name}"

import pktkit_rotate
import pytest

from pktkit.components import Choice
from pktkit.discovery.plugins import load_plugins
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing import tiny_loaded


@pytest.fixture(scope="session")
def registry():
    """The built-in components with ours beside them, installed or not."""
    installed = load_plugins()
    if any(status.name == "rotate" for status in installed.loaded):
        return Registry(installed)
    return Registry(load_plugins(extra={"rotate": pktkit_rotate}))


@pytest.fixture(scope="session")
def task():
    items = tuple(
        Item(f"i{i}", f"t{i} t{i + 7} t{(3 * i) % 40}", f"t{(5 * i + 1) % 50} t{i + 2}")
        for i in range(8)
    )
    return Task(
        name="words",
        splits=dict.fromkeys(("train", "align", "extract", "dev", "test"), items),
        evaluator=Choice("exact-match"),
        card=TaskCard(summary="tiny sentences", metric="exact match", splitting="none"),
    )


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def probe(request, task):
    """Two tiny models of unequal width and depth."""
    source = tiny_loaded(request.param, seed=1, width=48, blocks=4, heads=6, kv_heads=3, ffn=72)
    target = tiny_loaded(request.param, seed=2, width=32, blocks=3, heads=4, kv_heads=2, ffn=48)
    return Probe(ModelPair(source, target), task)

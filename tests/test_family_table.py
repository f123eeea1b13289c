"""The table of families in the documentation is what every family does here and now."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pktkit.discovery.plugins import load_plugins
from pktkit.families import family_of, supported_model_types
from pktkit.registry import Registry
from pktkit.testing import FAMILIES, tiny_loaded, tiny_tokenizer

DOCS = Path(__file__).parent.parent / "docs"


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_families", DOCS / "generate_families.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _generator()
ADVICE = "run `python docs/generate_families.py`"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(load_plugins())


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / "families.md").read_text(encoding="utf-8")


def test_every_family_is_once_a_source_and_once_a_target_of_another() -> None:
    ring = generator.RING
    assert sorted(ring) == sorted(FAMILIES) == list(supported_model_types())
    for target in ring:
        assert family_of(target) is not family_of(generator.source_of(target))


@pytest.mark.parametrize("target", generator.RING)
def test_it_loads_probes_transfers_and_saves(
    target: str, registry: Registry, page: str, tmp_path: Path
) -> None:
    """The generator checks each step; its line must be the one in the documentation."""
    row = generator.check(target, tmp_path, registry)
    assert str(row) in generator.written(page).splitlines(), ADVICE
    assert all(row.cells[name] == generator.YES for name in ("latent", "seeking", "naive"))
    for message in row.refusals.values():
        assert "family" in message and "--set injector.modules=" in message


def test_the_table_has_no_other_lines(page: str) -> None:
    lines = generator.written(page).splitlines()
    head, shown = generator.table(()).splitlines(), lines[2:]
    assert lines[:2] == head, ADVICE
    assert [line.split(" | ")[0].strip("| `") for line in shown] == list(generator.RING), ADVICE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_reads_back_as_it_was_written_beside_any_family(
    family: str, tmp_path: Path
) -> None:
    """Though transformers has a tokenizer class of its own for some, whatever the files say."""
    from pktkit.pair import load_model, save_model

    text = "t1 t2 nonsense t3"
    loaded = load_model(str(save_model(tiny_loaded(family, blocks=1), tmp_path / family)))
    assert loaded.tokenizer(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]

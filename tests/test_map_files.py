"""Maps on disk: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import pytest
import torch
from given_states import (
    FITTED,
    align,
    drawn,
    one_link,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import layer_map, pair_of, word_task

from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.pair import LoadedModel, ModelPair
from pktkit.probe import Probe
from pktkit.state_maps import AffineMap
from pktkit.testing import tiny_loaded
from pktkit.values import Interface, LayerMap, TargetStates
from pktkit_latent.aligners import MapFileAligner
from pktkit_latent.map_files import load_maps, save_maps


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_maps_written_to_a_file_come_back(name, tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    saved = align(name, pair, probe, interface=Interface.RESIDUAL, save=str(path)).target_states
    loaded = load_maps(path)
    assert loaded.aligner == name and loaded.layer_map == saved.layer_map
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    for links in (layer_map(pair, 0, 1, 3), LayerMap((), 4, 3, "none"), layer_map(pair, 0)):
        found = aligner.align(pair, links, probe).target_states
        assert found.interface is Interface.RESIDUAL
        for block in found.blocks:
            states = {source: torch.randn(4, 48) for source in range(4)}
            assert torch.equal(found.states(block, states), saved.states(block, states))
    if name == "semantic":
        assert loaded.maps[0] is loaded.maps[2], "a shared map is stored once"


def test_a_file_holds_the_maps_and_not_their_placebo(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    align("ridge", pair, probe, save=str(path))
    before = path.read_bytes()
    align("ridge", pair, probe, placebo="random-map", seed=1, save=str(path))
    assert path.read_bytes() == before


def test_an_existing_file_is_not_overwritten(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(UsageError, match="not overwritten"):
        align("ridge", pair, probe, save=str(path))
    assert path.read_bytes() == b"precious"
    with pytest.raises(UsageError, match="cannot write"):
        align("ridge", pair, probe, save=str(tmp_path / "nowhere" / "maps"))
    assert [file.name for file in tmp_path.iterdir()] == ["maps.safetensors"]


def test_a_file_of_another_pair_is_refused_with_both_hashes(tmp_path):
    pair, other = pair_of("llama"), pair_of("llama", target={"width": 24})
    path = tmp_path / "maps.safetensors"
    align("procrustes", pair, save=str(path))
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    with pytest.raises(
        PairIncompatibleError,
        match=r"target is 'llama' \(weights [0-9a-f]{12}, 32 wide.*weights [0-9a-f]{12}, 24 wide",
    ):
        aligner.align(other, layer_map(other, 0), Probe(other, word_task()))


def test_blocks_that_a_file_lacks_or_maps_otherwise_are_refused(tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    path = tmp_path / "maps.safetensors"
    align("ridge", pair, probe, layer_map(pair, 0, 1), save=str(path))
    aligner = MapFileAligner(MapFileAligner.Options(path=str(path)))
    with pytest.raises(UsageError, match=r"target blocks \[0, 1\].*also links \[2\]"):
        aligner.align(pair, layer_map(pair, 0, 1, 3), probe)
    with pytest.raises(UsageError, match=r"target block 1 .* source blocks \[1\].*reads \[2\]"):
        aligner.align(pair, layer_map(pair, 0, 2), probe)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_damaged_file_is_refused(data, tmp_path_factory):
    pair = ModelPair(*(_small(seed) for seed in (1, 2)))
    path = tmp_path_factory.mktemp("maps") / "maps.safetensors"
    states = TargetStates(
        {0: AffineMap(drawn(0, 8, 8), centre=drawn(1, 8))}, one_link(), Interface.RESIDUAL
    )
    whole = save_maps(path, states, pair, aligner="ridge").read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        damaged = whole[:position]
    else:
        flipped = whole[position] ^ (1 << data.draw(st.integers(0, 7)))
        damaged = whole[:position] + bytes([flipped]) + whole[position + 1 :]
    path.write_bytes(damaged)
    try:
        found = load_maps(path)
    except UsageError as error:
        assert "map file" in str(error)
    else:  # a letter of a name or hash in the description: the maps themselves are whole
        assert torch.equal(found.maps[0].matrix, states.maps[0].matrix)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(UsageError, match=r"no map file.*'save'"):
        load_maps(tmp_path / "none")


def _small(seed: int) -> LoadedModel:
    return tiny_loaded("llama", seed=seed, width=8, blocks=1, heads=2, kv_heads=1, ffn=8)

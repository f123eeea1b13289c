"""A source over several places: where its parts go, and that it says what it says in one."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import data_for, layer_map, logits, pair_of, word_task

from pktkit.checkpoints import spreading
from pktkit.checkpoints.spreading import placed
from pktkit.cli import main
from pktkit.discovery.plugins import load_plugins
from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.journal import Journal
from pktkit.offloaded import held, waits
from pktkit.pair import ModelPair, load_model, save_model, weights_hash
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded
from pktkit.transfer import run_transfer
from pktkit.values import Alignment
from pktkit_controls.injectors import FineTuneInjector, FineTuneOptions

FAMILIES = ("llama", "gpt2", "gpt_neox")


def block_bytes(model):
    first = model.anatomy.blocks[0]
    return sum(p.numel() * p.element_size() for p in first.parameters())


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    model = tiny_loaded(request.param, width=32, blocks=4, heads=4, kv_heads=4, ffn=48)
    folder = tmp_path_factory.mktemp("saved") / request.param
    save_model(model, folder)
    return folder


@pytest.fixture
def spread(saved, monkeypatch):
    """The saved model with embedding, LM head and one block in memory, the rest on disk."""
    whole = load_model(str(saved))
    total = sum(p.numel() * p.element_size() for p in whole.model.parameters())
    room = total - 4 * block_bytes(whole) + block_bytes(whole)
    monkeypatch.setattr(spreading, "memory", lambda: {"cpu": room})
    return whole, load_model(str(saved), device="spread")


def test_a_spread_model_has_the_weights_and_says_the_same(spread):
    whole, model = spread
    away = [name for name, p in model.model.named_parameters() if waits(p)]
    assert len({name.split(".")[2] for name in away}) == 3, away
    assert not waits(model.anatomy.head_weight) and not waits(model.anatomy.embedding.weight)
    assert weights_hash(model.model) == weights_hash(whole.model)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(held(model.model, name), parameter)
    for block in range(4):
        for name, projection in whole.anatomy.projections(block).items():
            there = model.anatomy.projections(block)[name].read(model.model)
            assert torch.equal(there, projection.read(whole.model))
    assert torch.equal(logits(model), logits(whole))


def test_a_spread_source_is_read_as_a_whole_one(spread):
    target = tiny_loaded("llama", seed=2, width=32, blocks=3, heads=4, kv_heads=2, ffn=48)
    probes = [Probe(ModelPair(source, target), word_task()) for source in spread]
    rows = range(len(probes[0].encoded("train").items))
    ours, theirs = (probe.states("train", (0, 3)).read(rows) for probe in probes)
    assert all(torch.equal(ours[block], theirs[block]) for block in (0, 3))
    assert torch.equal(*(probe.logits("train").read(rows) for probe in probes))
    assert torch.allclose(*(probe.attribution() for probe in probes))
    with pytest.raises(PairIncompatibleError, match="wait in host memory or on disk"):
        probes[1].sensitivities()


def test_a_target_learns_from_a_spread_source_what_it_learns_from_a_whole_one(spread):
    ends = []
    for source in spread:
        pair = ModelPair(source, pair_of("llama").target)
        with Journal(source) as watched, Journal(pair.target) as journal:
            FineTuneInjector(FineTuneOptions(output="both")).inject(
                pair.target,
                Alignment("none", layer_map(pair, 0)),
                data_for(Probe(pair, word_task())),
                journal,
            )
            watched.verify()
        ends.append([p.detach().clone() for p in pair.target.model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*ends, strict=True))


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
@pytest.mark.parametrize("name", ["latent", "latent-v1", "naive", "transplant", "laten", "seeking"])
def test_strategies_do_with_a_spread_source_what_they_do_or_refuse(spread, name):
    registry = Registry(load_plugins())
    strategy = registry.strategy(name)
    ends = []
    for source in spread:
        target = tiny_loaded("llama", seed=2, width=32, blocks=3, heads=4, kv_heads=4, ffn=48)
        probe = Probe(ModelPair(source, target), word_task())
        data = data_for(probe, steps=2)
        try:
            with Journal(target) as journal:
                run_transfer(strategy, probe.pair, probe, data, journal, registry, task="words")
        except PairIncompatibleError as error:
            assert source is spread[1] and "wait in host memory or on disk" in str(error)
            assert name == "seeking"
            return
        ends.append([p.detach().clone() for p in target.model.parameters()])
    assert name != "seeking"
    assert all(torch.equal(one, two) for one, two in zip(*ends, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    rooms=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    host=st.integers(0, 8),
)
def test_every_part_has_a_place_and_no_place_more_than_it_holds(rooms, host):
    model = tiny_loaded("llama", width=32, blocks=6, heads=4, kv_heads=2, ffn=48)
    block = block_bytes(model)
    ends = sum(p.numel() * p.element_size() for p in model.model.parameters()) - 6 * block
    room = {i: block * blocks for i, blocks in enumerate(rooms)} | {"cpu": block * host}
    room[0] += ends
    parts = placed(model.anatomy, room)
    names = [name for name, _ in model.model.named_parameters()]
    assert all(any(name.startswith(f"{part}.") for part in parts) for name in names)
    where = [parts[f"model.layers.{i}"] for i in range(6)]
    order = [*range(len(rooms)), "cpu", "disk"]
    assert [order.index(place) for place in where] == sorted(order.index(p) for p in where)
    for place, size in room.items():
        used = where.count(place) * block + (ends if place == 0 else 0)
        assert used <= size
    on_devices = sum(place not in ("cpu", "disk") for place in where)
    assert on_devices == min(6, sum(rooms))
    assert where.count("disk") == max(0, 6 - sum(rooms) - host)


def test_devices_that_hold_all_get_even_parts():
    model = tiny_loaded("llama", width=32, blocks=6, heads=4, kv_heads=2, ffn=48)
    total = sum(p.numel() * p.element_size() for p in model.model.parameters())
    parts = placed(model.anatomy, {0: 9 * total, 1: 9 * total, "cpu": 9 * total})
    counts = [sum(parts[f"model.layers.{i}"] == place for i in range(6)) for place in (0, 1)]
    assert sum(counts) == 6 and min(counts) >= 2


def test_what_cannot_be_spread_says_so(saved):
    with pytest.raises(UsageError, match="cannot be spread"):
        load_model(str(saved), device="spread", quant="8bit")
    given = ["transfer", "--strategy", "sft", "--out", "x", "--device", "spread"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2 and "only the source can be spread" in result.stderr

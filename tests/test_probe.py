"""Readings equal what a plain forward or backward pass gives, and are never confused."""

from __future__ import annotations

import pytest
import torch
from tiny_transfers import SOURCE, pair_of, same_bits, snapshot, word_task

from pktkit.encoding import collate, encode_split, padding_id
from pktkit.errors import PairIncompatibleError
from pktkit.pair import ModelPair
from pktkit.probe import Probe, ProbeSettings, ReadingCache
from pktkit.testing import tiny_loaded
from pktkit.values import Interface, Origin

FAMILIES = ["llama", "qwen2", "gemma", "gpt2", "gpt_neox", "opt", "phi"]


def hidden_by_transformers(model, split, row):
    """Residual stream at a row's predicting positions, read without any hook of ours."""
    item = split.items[row]
    with torch.no_grad():
        output = model.model(
            input_ids=torch.tensor([item.input_ids]), output_hidden_states=True, use_cache=False
        )
    inside = slice(item.supervised - 1, len(item.input_ids) - 1)
    return [state[0, inside] for state in output.hidden_states], output.logits[0, inside]


@pytest.mark.parametrize("family", FAMILIES)
def test_stored_states_and_logits_are_those_of_a_plain_forward_pass(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task(), settings=ProbeSettings(batch_size=4))
    depth = pair.source.anatomy.n_blocks
    reader = probe.states("train", range(depth))
    for row in (0, 3, 5):
        states = reader.read([row])
        expected, logits = hidden_by_transformers(pair.source, probe.encoded("train"), row)
        for block in range(depth - 1):  # the last entry of hidden_states is after the final norm
            torch.testing.assert_close(states[block], expected[block + 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(probe.logits("train").read([row]), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interface", Interface)
def test_live_reading_equals_the_stored_one(interface):
    pair = pair_of("llama")
    stored = Probe(pair, word_task())
    live = Probe(pair, word_task(), settings=ProbeSettings(max_bytes=0))
    rows, lengths = [4, 1, 2], [2, 5, 3]
    ours = stored.states("train", [0, 3], interface=interface).read(rows, lengths)
    theirs = live.states("train", [0, 3], interface=interface).read(rows, lengths)
    for block in (0, 3):
        torch.testing.assert_close(ours[block], theirs[block], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        stored.logits("train").read(rows), live.logits("train").read(rows), rtol=1e-4, atol=1e-5
    )


def test_a_contribution_is_what_the_block_adds():
    probe = Probe(pair_of("qwen2"), word_task())
    residual = probe.states("train", [0, 1]).read([2])
    added = probe.states("train", [1], interface=Interface.CONTRIBUTION).read([2])
    torch.testing.assert_close(added[1], residual[1] - residual[0])


def test_reading_another_items_states_repeats_or_cuts_them():
    reader = Probe(pair_of("llama"), word_task()).states("train", [1])
    own = reader.read([3])[1]
    assert torch.equal(reader.read([3], [1])[1], own[:1])
    assert torch.equal(reader.read([3], [2 * len(own)])[1], torch.cat([own, own]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_attribution_and_sensitivity_match_autograd(family):
    pair = pair_of(family)
    before = snapshot(pair.source)
    probe = Probe(pair, word_task(3))
    sensitivities, attribution = probe.sensitivities(), probe.attribution()
    assert all(p.grad is None and not p.requires_grad for p in pair.source.model.parameters())
    model = pair.source.model.requires_grad_(True)
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row, item in enumerate(probe.encoded("extract").items):
        ids = torch.tensor([item.input_ids])
        output = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        for state in output.hidden_states:
            state.retain_grad()
        labels = ids[0, item.supervised :]
        loss = torch.nn.functional.cross_entropy(output.logits[0, item.supervised - 1 : -1], labels)
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            expected[name] += (parameter * parameter.grad).abs().detach()
        inner = output.hidden_states[1:-1]
        ours = attribution[row, : len(inner)]
        theirs = torch.stack([(h.grad * h).sum().detach() for h in inner])
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(probe.source_loss()[row], loss.detach(), rtol=1e-4, atol=1e-5)
    model.requires_grad_(False)
    assert sensitivities.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(sensitivities[name], value, rtol=1e-3, atol=1e-6)
    assert same_bits(pair.source, before)


def test_readings_on_disk_are_read_back_and_never_mixed_up(tmp_path):
    """Two sources of equal shape and different weights, one cache directory."""
    first = pair_of("llama")
    same_shape = tiny_loaded("llama", seed=9, **SOURCE)
    second = ModelPair(same_shape, first.target)
    cache = ReadingCache(tmp_path)
    a = Probe(first, word_task(), cache=cache).states("train", [0]).read([0])[0]
    b = Probe(second, word_task(), cache=cache).states("train", [0]).read([0])[0]
    assert not torch.equal(a, b)
    again = Probe(first, word_task(), cache=ReadingCache(tmp_path)).states("train", [0]).read([0])
    assert torch.equal(again[0], a)
    assert len(list(tmp_path.glob("*/shard-*.safetensors"))) == 2


def test_a_second_reading_is_not_computed_again(tmp_path, monkeypatch):
    pair = pair_of("llama")
    Probe(pair, word_task(), cache=ReadingCache(tmp_path)).states("train", [0])

    def refuse(*args, **kwargs):
        raise AssertionError("computed twice")

    monkeypatch.setattr("pktkit.probe.probe.forward_pass", refuse)
    again = Probe(pair, word_task(), cache=ReadingCache(tmp_path)).states("train", [0])
    assert again.read([0])[0].shape[1] == pair.source.anatomy.width


def shards_in(directory):
    return sorted(directory.glob("*/shard-*.safetensors"))


@pytest.mark.parametrize("interface", Interface)
def test_how_a_reading_is_sharded_does_not_show(tmp_path, interface):
    pair, task = pair_of("llama"), word_task(9)
    whole = Probe(pair, task, settings=ProbeSettings(batch_size=2))
    small = ProbeSettings(batch_size=2, shard_bytes=1)
    cut = Probe(pair, task, settings=small, cache=ReadingCache(tmp_path))
    rows, lengths = [7, 0, 3], [2, 5, 3]
    ours = whole.states("train", [0, 3], interface=interface).read(rows, lengths)
    theirs = cut.states("train", [0, 3], interface=interface).read(rows, lengths)
    assert len(shards_in(tmp_path)) == 5
    for block in (0, 3):
        assert torch.equal(ours[block], theirs[block])
    assert torch.equal(whole.logits("train").read(rows), cut.logits("train").read(rows))


def test_states_in_bfloat16_take_half_the_space(tmp_path):
    pair, sizes, read = pair_of("llama"), {}, {}
    for kept in ("model", "bfloat16"):
        settings = ProbeSettings(state_dtype=kept)
        probe = Probe(pair, word_task(), settings=settings, cache=ReadingCache(tmp_path / kept))
        read[kept] = probe.states("train", [2], origin=Origin.TARGET).read([0, 4])[2]
        sizes[kept] = sum(file.stat().st_size for file in shards_in(tmp_path / kept))
    assert sizes["bfloat16"] < 0.7 * sizes["model"]
    assert read["bfloat16"].dtype == torch.float32
    torch.testing.assert_close(read["bfloat16"], read["model"], rtol=2**-8, atol=1e-6)


def test_a_second_run_pays_no_source_forward(tmp_path):
    pair, task = pair_of("llama"), word_task()
    calls = []
    pair.source.model.register_forward_hook(lambda *arguments: calls.append(1))

    def train(seed):
        probe = Probe(pair, task, cache=ReadingCache(tmp_path))
        reader = probe.states("train", [1, 3])
        for rows in ([0, 1], [2, 3], [4, 5]):
            reader.read(rows), probe.logits("train").read(rows)

    train(0)
    first = len(calls)
    train(1)
    assert first > 0 and len(calls) == first


def test_source_logits_need_one_tokenizer():
    pair = pair_of("llama")
    other = tiny_loaded("llama", seed=3, width=48, blocks=4, heads=6, kv_heads=3, ffn=72, vocab=59)
    probe = Probe(ModelPair(other, pair.target), word_task())
    with pytest.raises(PairIncompatibleError, match="59"):
        probe.logits("train")
    assert probe.states("train", [0]).read([0])[0].shape[1] == 48
    assert probe.states("train", [0], origin=Origin.TARGET).read([0])[0].shape[1] == 32


def test_padding_does_not_reach_a_reading():
    """A row read beside a longer one has the states it has alone."""
    pair = pair_of("qwen3")
    alone = Probe(pair, word_task(), settings=ProbeSettings(batch_size=1))
    together = Probe(pair, word_task(), settings=ProbeSettings(batch_size=6))
    rows = range(6)
    for block in (0, 3):
        torch.testing.assert_close(
            alone.states("train", [block]).read(rows)[block],
            together.states("train", [block]).read(rows)[block],
            rtol=1e-4,
            atol=1e-5,
        )


def test_supervision_starts_with_the_answer_and_ends_with_the_sequence():
    loaded = tiny_loaded("llama")
    split = encode_split(
        loaded.tokenizer, word_task().items("train"), name="train", join="plain", max_length=64
    )
    batch = collate(split, [0, 1], pad_id=padding_id(loaded.tokenizer))
    item = split.items[0]
    answer = loaded.tokenizer.decode(list(item.input_ids[item.supervised : -1]))
    assert answer == "t1 t2"
    assert item.ends and item.input_ids[-1] == loaded.tokenizer.eos_token_id
    assert batch.gold.tolist()[:3] == list(item.input_ids[item.supervised :])
    assert batch.ending.tolist() == [False, False, True] * 2
    assert int(batch.predicting.sum()) == len(batch.gold)

"""Every aligner on tiny pairs of several families: shapes, figures, placebos, refusals."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
import torch
from given_states import (
    ALL,
    FITTED,
    TOLERANCE,
    align,
    moments,
    probe_tokens,
)
from tiny_transfers import SOURCE, layer_map, pair_of, same_bits, snapshot, word_task

from pktkit.activations.paired import PairedStates
from pktkit.errors import (
    NonFiniteError,
    UsageError,
)
from pktkit.families import Anatomy
from pktkit.pair import LoadedModel, ModelPair
from pktkit.probe import Probe, ProbeSettings, ReadingCache
from pktkit.state_maps import Readout
from pktkit.tasks.base import SPLITS, Item
from pktkit.testing import tiny_loaded, tiny_model, tiny_tokenizer
from pktkit.values import Interface, LayerLink, LayerMap, Origin, Space
from pktkit_latent import maps as vocabulary_maps
from pktkit_latent.aligners.figures import fit_figures, sampled_rows
from pktkit_latent.aligners.fitting import right_positions
from pktkit_latent.aligners.ridge import ridge_map
from pktkit_latent.aligners.semantic import aligned_heads


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "gpt_neox"])
def test_every_aligner_on_every_family(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    before = snapshot(pair.source), snapshot(pair.target)
    states = {block: torch.randn(7, 48) for block in range(4)}
    own = {block: torch.randn(7, 32) for block in range(3)}
    for name in ALL:
        for interface in Interface:
            alignment = align(name, pair, probe, interface=interface)
            aligned = alignment.target_states
            assert aligned.blocks == (0, 1, 2) and aligned.interface is interface
            width = 48 if aligned.space is Space.ORIGIN else 32
            read = own if aligned.origin is Origin.TARGET else states
            for block in aligned.blocks:
                mapped = aligned.states(block, read)
                assert mapped.shape == (7, width) and bool(mapped.isfinite().all())
            json.dumps(alignment.diagnostics, allow_nan=False)
    assert same_bits(pair.source, before[0]) and same_bits(pair.target, before[1])


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_pairs_of_two_families(tied):
    pair = pair_of("llama", "qwen2", source={"tied": tied}, target={"tied": not tied})
    pair.source.model.bfloat16()
    pair.target.model.bfloat16()
    probe = Probe(pair, word_task())
    for name in [*FITTED, "semantic"]:
        aligned = align(name, pair, probe).target_states
        mapped = aligned.states(0, {0: torch.randn(5, 48).bfloat16()})
        assert mapped.dtype == torch.bfloat16 and bool(mapped.isfinite().all())


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_fit_figures_tell_a_fit_from_a_shuffled_control(name):
    """A model aligned to itself explains everything, and another item's states do not."""
    model = tiny_loaded("llama", seed=1, **SOURCE)
    pair = ModelPair(model, model)
    extra: dict[str, Any] = {"map": "lens"} if name == "semantic" else {}
    if name == "ridge":
        extra["penalty"] = 1e-9
    if name == "cca":
        extra["variance"] = 1.0
    links = layer_map(pair, 0, 1, 2, 3)
    probe = Probe(pair, word_task(40))
    alignment = align(name, pair, probe, links, interface=Interface.RESIDUAL, **extra)
    fit = alignment.diagnostics["fit"]
    assert fit["blocks"] == [0, 1, 2, 3] and fit["tokens"] == probe_tokens(probe)
    least = 0.9 if name == "semantic" else 0.999  # states are scaled to unit length there
    assert min(fit["centred_cosine"]) > least
    assert max(fit["centred_cosine_shuffled"]) < 0.8
    if name != "semantic":
        assert min(fit["r2"]) > 0.999


def test_hints_learn_a_readout_and_relations_have_none():
    pair = pair_of("llama")
    hint = align("hint", pair).target_states
    assert hint.space is Space.ORIGIN and hint.comparable
    assert dict(hint.readouts) == dict.fromkeys(range(3), Readout(32, 48))
    relation = align("relation", pair).target_states
    assert relation.space is Space.ORIGIN and not relation.comparable
    for aligned in (hint, relation):
        states = {block: torch.randn(4, 48) for block in range(4)}
        assert torch.equal(aligned.states(2, states), states[3])


@pytest.mark.parametrize("name", [*FITTED, "semantic", "hint", "relation"])
def test_shuffled_items_change_what_is_read_and_nothing_else(name):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    right = align(name, pair, probe).target_states
    shuffled = align(name, pair, probe, placebo="shuffled-items").target_states
    assert shuffled.shuffle_items and not right.shuffle_items
    states = {block: torch.randn(4, 48) for block in range(4)}
    for block in right.blocks:
        assert torch.equal(right.states(block, states), shuffled.states(block, states))


@pytest.mark.parametrize("name", [*FITTED, "semantic"])
def test_a_random_map_takes_the_seed_it_is_given(name):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    right = align(name, pair, probe).target_states.maps[1]
    first, again, other = (
        align(name, pair, probe, placebo="random-map", seed=seed).target_states.maps[1]
        for seed in (3, 3, 4)
    )
    assert torch.equal(first.matrix, again.matrix)
    assert not torch.allclose(first.matrix, other.matrix)
    torch.testing.assert_close(first.matrix.norm(), right.matrix.norm())


@pytest.mark.parametrize("name", FITTED)
def test_maps_are_the_same_stored_live_and_again(name):
    pair = pair_of("qwen2")
    links = LayerMap([LayerLink(0, (0, 1), (0.3, 0.7)), LayerLink(2, (3,))], 4, 3, "interpolated")
    stored = align(name, pair, links=links).target_states
    again = align(name, pair, links=links).target_states
    live = Probe(pair, word_task(), settings=ProbeSettings(max_bytes=0, batch_size=2))
    other = align(name, pair, live, links).target_states
    states = {block: torch.randn(5, 48) for block in range(4)}
    for block in (0, 2):
        assert torch.equal(stored.maps[block].matrix, again.maps[block].matrix)
        torch.testing.assert_close(
            stored.states(block, states), other.states(block, states), rtol=1e-2, atol=1e-2
        )


def test_a_fitted_map_is_the_fit_of_all_states_at_once():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    found = align("ridge", pair, probe, penalty=0.1).target_states.maps[2]
    source = probe.states("align", [3]).read(range(6))[3].double()
    target = probe.states("align", [2], origin=Origin.TARGET).read(range(6))[2].double()
    expected = ridge_map(moments(source, target), 0.1)
    torch.testing.assert_close(found.matrix, expected.matrix, **TOLERANCE)
    torch.testing.assert_close(found.offset, target.mean(0), **TOLERANCE)


def greedy_task(pair: ModelPair, rows: int):
    """Items whose first answer token is what the target predicts, so that it gets many right."""
    ids = torch.tensor([[1, 4 + row % 50, 4 + (7 * row) % 53] for row in range(rows)])
    with torch.no_grad():
        best = pair.target.model(input_ids=ids, use_cache=False).logits[:, -1, 4:].argmax(-1)
    items = tuple(
        Item(f"i{row}", f"t{ids[row, 1] - 4} t{ids[row, 2] - 4}", f"t{int(best[row])}")
        for row in range(rows)
    )
    return attrs.evolve(word_task(), splits=dict.fromkeys(SPLITS, items))


def test_fitting_on_what_the_target_gets_right():
    pair = pair_of("llama")
    probe = Probe(pair, greedy_task(pair, 80))
    kept = right_positions(probe, "align")
    assert 32 <= int(kept.sum()) < len(kept)
    found = align("ridge", pair, probe, fit_on="right")
    assert found.diagnostics["tokens"] == int(kept.sum())
    assert found.diagnostics["fit"]["tokens"] == int(kept.sum())
    rows = range(len(probe.encoded("align").items))
    source = probe.states("align", [3]).read(rows)[3][kept]
    target = probe.states("align", [2], origin=Origin.TARGET).read(rows)[2][kept]
    expected = ridge_map(moments(source.double(), target.double()), 1e-2)
    torch.testing.assert_close(found.target_states.maps[2].matrix, expected.matrix, **TOLERANCE)


def test_figures_are_taken_on_rows_that_have_tokens():
    pair = pair_of("llama")
    probe = Probe(pair, word_task(40))
    kept = torch.zeros(probe_tokens(probe), dtype=torch.bool)
    kept[[3, 4, 30]] = True  # three answer tokens per item: items 1 and 10
    paired = PairedStates(probe, "align", Interface.RESIDUAL, kept)
    assert list(sampled_rows(paired)) == [1, 10]
    figures = fit_figures(align("ridge", pair, probe).target_states, paired)
    assert figures["tokens"] == 3


def test_too_few_right_tokens_are_refused_with_figures():
    pair = pair_of("llama")
    with pytest.raises(UsageError, match=r"predicts \d+ of the 18 answer tokens.*at least 32"):
        align("ridge", pair, fit_on="right")


def test_a_rank_beyond_the_align_split_names_the_block():
    with pytest.raises(UsageError, match=r"target block 0: rank 30 .* 18 tokens"):
        align("cca", pair_of("llama"), rank=30)


@pytest.mark.parametrize("side", ["source", "target"])
def test_states_that_are_not_finite_are_refused(side):
    pair = pair_of("llama")
    anatomy = getattr(pair, side).anatomy
    with torch.no_grad():
        anatomy.embedding.weight[:, 3] = float("inf")
    with pytest.raises(NonFiniteError, match=rf"not finite: {side} block.*split 'align'"):
        align("procrustes", pair)


@pytest.mark.parametrize("name", [*FITTED, "semantic", "hint", "relation"])
def test_nothing_to_align_is_refused(name):
    with pytest.raises(UsageError, match=f"'{name}'.*links none.*matcher"):
        align(name, pair_of("llama"), links=LayerMap((), 4, 3, "none"))


@pytest.mark.parametrize("name", [*FITTED, "semantic", "hint", "relation"])
def test_models_with_different_tokenizers_are_aligned_at_what_both_have_read(name):
    target = pair_of("llama").target
    foreign = ModelPair(tiny_loaded("llama", vocab=59, **SOURCE), target)
    assert not foreign.tokenizers.same
    found = align(name, foreign, Probe(foreign, word_task())).target_states
    states = torch.randn(5, 48)
    for block in found.blocks:
        mapped = found.maps[block](states)
        assert bool(mapped.isfinite().all())
        assert mapped.shape == (5, 32 if found.space is Space.TARGET else 48)


def test_rows_that_only_pad_the_vocabulary_never_enter():
    models = []
    for seed, rows, sizes in ((1, 64, SOURCE), (2, 80, {"width": 32, "blocks": 3})):
        model = tiny_model("llama", vocab=rows, seed=seed, **sizes)
        models.append(LoadedModel(f"m{seed}", model, tiny_tokenizer(61), Anatomy.of(model)))
    pair = ModelPair(*models)
    heads = aligned_heads(pair, fold_norm=False)
    assert heads.source.shape == (61, 48) and heads.target.shape == (61, 32)
    w_source, w_target = (m.anatomy.head_weight[:61].detach().double() for m in models)
    s_source, s_target = torch.linalg.pinv(w_source), torch.linalg.pinv(w_target)
    normalised = torch.nn.functional.normalize
    expected = normalised(s_target, dim=0) @ normalised(s_source, dim=0).T
    found = align("semantic", pair).target_states.maps[0].matrix
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_a_semantic_map_is_computed_once_per_pair_of_heads(tmp_path, monkeypatch):
    pair = pair_of("llama", source={"tied": False})
    probe = lambda: Probe(pair, word_task(), cache=ReadingCache(tmp_path))  # noqa: E731
    first = align("semantic", pair, probe()).target_states.maps[0].matrix
    calls = []
    monkeypatch.setitem(
        vocabulary_maps.MAPS, "unit", lambda heads: calls.append(1) or first.clone()
    )
    again = align("semantic", pair, probe()).target_states.maps[0].matrix
    assert not calls and torch.equal(first, again)
    align("semantic", pair, probe(), fold_norm=True)
    assert len(calls) == 1, "folding the norm is another map"
    with torch.no_grad():
        pair.source.anatomy.head.weight[5] += 1
    align("semantic", pair, probe())
    assert len(calls) == 2, "another head is another map"

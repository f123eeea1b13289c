"""The coherent choice: one set of coordinates everywhere, whole heads, whole rotary pairs."""

from __future__ import annotations

import pytest
import torch
from low_rank_starts import aligned, best_of_rank
from tiny_transfers import layer_map, pair_of, word_task

from pktkit.probe import Probe
from pktkit_seeking.coherent import coherent_plan, head_channels, rotary_channels
from pktkit_seeking.picks import NOTHING, gathered

FAMILIES = ("llama", "qwen2", "gemma", "gpt2", "gpt_neox", "phi")
SHARED = {"q": "query", "o": "query", "k": "group", "v": "group"}


def plan_of(pair, sensitivities=None, sources=(0, 2, 3)):
    return coherent_plan(
        pair, layer_map(pair, *sources), sensitivities or Probe(pair, word_task()).sensitivities()
    )


def zero_sensitivities(pair):
    return {name: torch.zeros(p.shape) for name, p in pair.source.model.named_parameters()}


def test_rotary_channels_are_ranked_and_placed_in_pairs():
    """Pairs (0,3), (1,4), (2,5) score 1, 9, 5; channels 6 and 7 do not turn."""
    scores = torch.tensor([1.0, 4, 0, 0, 5, 5, 2, 3])
    assert head_channels(scores, 5, (6, 4)).tolist() == [1, 2, 4, 5, 7]
    assert head_channels(scores, 8, (6, 6)).tolist() == list(range(8))
    assert head_channels(scores, 10, (6, 8)).tolist() == [0, 1, 2, -1, 3, 4, 5, -1, 6, 7]
    # without rotary embedding on either side all channels are alike
    assert head_channels(scores, 3, (6, 0)).tolist() == [1, 4, 5]
    assert head_channels(scores, 3).tolist() == [1, 4, 5]


@pytest.mark.parametrize(
    ("family", "expected"),
    [("llama", 8), ("gpt_neox", 2), ("phi", 4), ("gpt2", 0), ("gemma", 16), ("gemma3_text", 16)],
)
def test_rotary_channels_are_read_off_the_model(family, expected):
    assert rotary_channels(pair_of(family).source) == expected


def test_a_hand_computed_choice():
    """Three key-value heads with two query heads each; the target has two with two."""
    pair = pair_of("llama")
    scores = zero_sensitivities(pair)
    prefix = "model.layers.0.self_attn"
    scores[f"{prefix}.k_proj.weight"][0, 5] = 2.0  # head 0, residual coordinate 5
    scores[f"{prefix}.q_proj.weight"][5 * 8 + 1, 7] = 3.0  # query head 5 belongs to group 2
    scores["model.layers.0.mlp.down_proj.weight"][40, 70] = 4.0  # neuron 70 writes coordinate 40
    scores["lm_head.weight"][9, 44] = 1.0
    scores["model.layers.1.mlp.up_proj.weight"][60, 1] = 99.0  # block 1 is not linked
    plan = plan_of(pair, scores)
    kept = plan.residual.tolist()
    assert len(kept) == 32 and kept == sorted(set(kept)) and {5, 7, 40, 44} <= set(kept)
    assert set(kept) - {5, 7, 40, 44} == set(range(30)) - {5, 7}  # ties keep lower ones
    block = plan.blocks[0]
    assert block.groups.tolist() == [0, 2]
    assert block.queries.tolist() == [0, 1, 4, 5]
    assert 70 in block.neurons.tolist() and len(block.neurons) == 48
    assert block.inner("q").tolist() == [*range(16), *range(32, 48)]
    assert block.inner("k").tolist() == [*range(8), *range(16, 24)]
    assert block.inner("down").tolist() == block.neurons.tolist() == block.inner("gate").tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_is_cut_by_the_same_coordinates(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    plan, alignment = (
        plan_of(pair, probe.sensitivities()),
        aligned(pair, probe, window="coherent", rank=8),
    )
    assert alignment.diagnostics["coherent"]["residual"] == plan.residual.tolist()
    for update in alignment.low_rank:
        if update.projection in ("embed", "head"):
            weight = pair.source.anatomy.embedding.weight.detach().T
            if update.projection == "head":
                weight = pair.source.anatomy.head_weight.detach().T
            cut = weight[plan.residual]
            cut = cut if update.projection == "embed" else cut.T
        else:
            ours = pair.source.anatomy.projections((0, 2, 3)[update.block])[update.projection]
            matrix = ours.read(pair.source.model)
            inner = plan.blocks[update.block].inner(update.projection)
            if update.projection in ("o", "down"):
                cut = gathered(matrix, plan.residual, inner)
            else:
                cut = gathered(matrix, inner, plan.residual)
        assert torch.allclose(update.b @ update.a, best_of_rank(cut, 8), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_are_whole_and_stay_with_their_key_value_head(family):
    pair = pair_of(family)
    ours, theirs = pair.source.anatomy, pair.target.anatomy
    per_group = ours.n_heads // ours.n_kv_heads
    for block in plan_of(pair).blocks.values():
        groups = block.groups.repeat_interleave(theirs.n_heads // theirs.n_kv_heads)
        assert torch.equal(block.queries // per_group, groups)
        for name in SHARED:
            heads = block.queries if SHARED[name] == "query" else block.groups
            rows = block.inner(name).view(len(heads), theirs.head_dim)
            expected = heads[:, None] * ours.head_dim + torch.arange(ours.head_dim)
            assert torch.equal(rows, expected)  # equal head sizes: nothing inside a head moves


@pytest.mark.parametrize(("wide", "narrow"), [(16, 8), (8, 16)])
def test_heads_of_another_size_keep_rotary_pairs(wide, narrow):
    """Gemma-style heads, wider than width / heads, on either side."""
    pair = pair_of("gemma", source={"head_dim": wide}, target={"head_dim": narrow})
    half, room = wide // 2, narrow // 2
    for block in plan_of(pair).blocks.values():
        for channels in block.channels.tolist():
            first, second = channels[:room], channels[room:]
            kept = [c for c in first if c != NOTHING]
            assert len(kept) == min(half, room) and all(c < half for c in kept)
            assert second == [c if c == NOTHING else c + half for c in first]
        assert torch.equal(block.inner("q").view(2, 2, -1)[:, 0] % wide, block.channels % wide) or (
            NOTHING in block.channels
        )
        assert block.value_channels.shape == (2, narrow)


def test_what_the_source_lacks_receives_zeros():
    """Source: one key-value head with two query heads; target: two with two each."""
    pair = pair_of("llama", source={"width": 24, "heads": 2, "kv_heads": 1, "head_dim": 8})
    alignment = aligned(pair, Probe(pair, word_task()), window="coherent")
    heads = alignment.diagnostics["coherent"]["heads"][0]
    assert heads == {"groups": [0, NOTHING], "queries": [0, 1, NOTHING, NOTHING]}
    products = {u.projection: u.b @ u.a for u in alignment.low_rank if u.block == 0}
    assert products["q"][16:].abs().max() < 1e-6 and products["q"][:16].abs().max() > 0.1
    assert products["k"][8:].abs().max() < 1e-6
    assert products["o"][:, 16:].abs().max() < 1e-6
    assert products["up"][:, 24:].abs().max() < 1e-6


def test_the_module_set_does_not_change_the_coordinates():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    few = aligned(pair, probe, window="coherent", modules=("up", "down"))
    every = aligned(pair, probe, window="coherent")
    assert few.diagnostics["coherent"] == every.diagnostics["coherent"]

"""What the kit draws is what it says, and models in other coordinates are the same models."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from pktkit.errors import UsageError
from pktkit.journal import Journal
from pktkit.testing import (
    FAMILIES,
    alignments,
    heads,
    layer_maps,
    model_pairs,
    renumbered,
    rotated,
    states,
    tiny_loaded,
)
from pktkit.testing.reparametrise import plain_llama, random_rotation
from pktkit.testing.scenes import GROUPED, MIXED, Scene, by_depth, other_numbers, words
from pktkit.testing.strategies import STATE_KINDS, drawn_pairs, pair_specs
from pktkit.testing.synthetic import alignment_of

FEW = settings(max_examples=20, deadline=None, derandomize=True)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@FEW
@given(st.data(), st.integers(1, 9), st.sampled_from(DTYPES), st.sampled_from(STATE_KINDS))
def test_states_are_finite_and_of_the_size_asked_for(data, width, dtype, kind):
    drawn = data.draw(states(width, tokens=(2, 4), kinds=[kind], dtype=dtype))
    assert drawn.dtype == dtype and 2 <= len(drawn) <= 4 and drawn.shape[1] == width
    assert bool(drawn.isfinite().all())
    expected = {
        "zero": bool((drawn == 0).all()),
        "constant": bool((drawn == drawn[0, 0]).all()),
        "repeated": bool((drawn == drawn[0]).all()),
        "one-hot": bool((drawn.sum(dim=1) == 1).all()),
    }
    assert expected.get(kind, True)


def test_states_shrink_to_ordinary_ones_and_reach_the_degenerate():
    plain = find(states(4), lambda drawn: True)
    assert len(plain) == 1 and bool((plain != 0).all()) and float(plain.abs().max()) < 10
    assert float(find(states(4), lambda x: float(x.abs().max()) > 1e20).abs().max()) > 1e20
    assert not bool(find(states(4), lambda x: not bool(x.any())).any())
    with pytest.raises(UsageError, match="unknown kind of states 'larg'"):
        find(states(4, kinds=["larg"]), lambda drawn: True)


@FEW
@given(heads())
def test_heads_are_finite_and_tall(head):
    assert head.dtype == torch.float64 and bool(head.isfinite().all())
    assert 24 <= head.shape[0] <= 80 and 2 <= head.shape[1] <= 16


@FEW
@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_layer_maps_are_valid(data, source, target, monotone):
    drawn = data.draw(layer_maps(source, target, monotone=monotone))
    assert (drawn.source_blocks, drawn.target_blocks) == (source, target) and drawn.links
    assert all(abs(sum(link.weights) - 1) < 1e-9 for link in drawn.links)
    ends = [(min(link.sources), max(link.sources)) for link in drawn.links]
    if monotone:
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ends))


def test_layer_maps_that_are_not_monotone_are_drawn_too():
    drawn = find(layer_maps(3, 3), lambda m: len(m.links) > 1 and m.links[0].main > m.links[1].main)
    assert drawn.links[0].main > drawn.links[1].main


@settings(max_examples=10, deadline=None, derandomize=True)
@given(model_pairs())
def test_pairs_run_and_the_source_is_frozen(pair):
    ids = torch.arange(4, 12).unsqueeze(0)
    for side in (pair.source, pair.target):
        assert bool(side.model(input_ids=ids).logits.isfinite().all())
    assert not any(p.requires_grad for p in pair.source.model.parameters())
    assert pair.tokenizers.same


def test_pairs_cover_what_they_promise():
    """Hypothesis finds each of these, so that a law meets them all."""

    def differ(field):
        return lambda specs: specs[0].sizes[field] != specs[1].sizes[field]

    for wanted in (
        differ("width"),
        differ("blocks"),
        lambda specs: specs[0].sizes["heads"] > specs[0].sizes["kv_heads"],
        lambda specs: specs[0].sizes["tied"] and not specs[1].sizes["tied"],
        *(lambda specs, family=family: specs[1].family == family for family in FAMILIES[::4]),
    ):
        assert wanted(find(pair_specs(), wanted))
    same = find(pair_specs(("gpt2", "opt"), same_family=True), lambda specs: True)
    assert same[0].family == same[1].family == "gpt2"
    with pytest.raises(UsageError, match="unknown tiny model family 'lama'"):
        find(model_pairs(["lama"]), lambda pair: True)
    assert drawn_pairs(3) == drawn_pairs(3)


@pytest.mark.parametrize("models", [GROUPED, MIXED], ids=["grouped", "mixed"])
def test_alignments_fit_their_target(models):
    pair = Scene(*models).open().pair
    target, parameters = pair.target, dict(pair.target.model.named_parameters())

    @settings(max_examples=6, deadline=None, derandomize=True)
    @given(alignments(pair))
    def fits(alignment):
        for dense in alignment.dense:
            assert dense.value.shape == parameters[dense.parameter].shape
        for low in alignment.low_rank:
            part = target.anatomy.projections(low.block)[low.projection].read(target.model)
            assert (low.b @ low.a).shape == part.shape
        for sparse in alignment.sparse:
            part = target.anatomy.projections(sparse.block)[sparse.projection].read(target.model)
            assert sparse.added_to(part).shape == part.shape
        given_states = {b: torch.randn(3, pair.source.anatomy.width) for b in range(4)}
        mapped = alignment.target_states
        for block in mapped.blocks:
            assert mapped.states(block, given_states).shape == (3, target.anatomy.width)

    fits()


def test_alignments_are_what_the_seed_says():
    pair = Scene(*GROUPED).open().pair
    one, two, three = (alignment_of(pair, by_depth(pair), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.dense[0].value, two.dense[0].value)
    assert not torch.equal(one.dense[0].value, three.dense[0].value)


# --- other coordinates -----------------------------------------------------------------------


def logits(loaded, text="t3 t17 t5 t40"):
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids, loaded.model(input_ids=ids).logits[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_renumbered_models_say_the_same_under_other_numbers(family):
    numbers = other_numbers()
    assert sorted(numbers) == list(range(61)) and all(numbers[i] != i for i in range(4, 61))
    usual, other = tiny_loaded(family), renumbered(tiny_loaded(family), numbers)
    (ids, before), (moved, after) = logits(usual), logits(other)
    assert moved.tolist() == [[numbers[i] for i in ids[0].tolist()]]
    torch.testing.assert_close(after[:, torch.tensor(numbers)], before)
    assert other.tokenizer.decode(moved[0]) == usual.tokenizer.decode(ids[0])


def test_numbers_must_be_a_permutation_that_leaves_special_tokens():
    for numbers in (range(60), [1, 0, *range(2, 61)], [*range(4), *[4] * 57]):
        with pytest.raises(UsageError, match=r"permutation of 0\.\.60"):
            renumbered(tiny_loaded("llama"), tuple(numbers))


def test_a_turned_model_says_the_same_with_turned_states():
    sizes = {"seed": 3, "width": 32}
    straight = plain_llama(**sizes)
    rotation = random_rotation(32, seed=9)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(32, dtype=torch.float64))
    turned = rotated(plain_llama(**sizes), rotation)
    torch.testing.assert_close(logits(turned)[1], logits(straight)[1], atol=1e-5, rtol=1e-5)
    ids = logits(straight)[0]
    states_of = [
        m.model(input_ids=ids, output_hidden_states=True).hidden_states[2][0].detach().double()
        for m in (straight, turned)
    ]
    torch.testing.assert_close(states_of[0] @ rotation, states_of[1], atol=1e-5, rtol=1e-5)


def test_only_plain_llamas_are_turned():
    for loaded in (tiny_loaded("gpt2"), tiny_loaded("llama")):
        with pytest.raises(UsageError, match="norms have gain 1"):
            rotated(loaded, random_rotation(32, seed=0))


def test_scenes_are_fresh_every_time():
    scene = Scene(*GROUPED)
    first = scene.open().pair.target
    with Journal(first) as journal:
        name = first.anatomy.block_parameters(0)[0]
        journal.write(name, torch.zeros_like(first.model.get_parameter(name)))
    again = scene.open().pair.target
    assert bool(again.model.get_parameter(name).any())
    assert again.anatomy.model is again.model


def test_items_of_different_splits_are_different():
    task = words()
    seen = [(item.prompt, item.answer) for split in task.splits for item in task.items(split)]
    assert len(seen) == len(set(seen))
    assert all(item.answer in item.choices and len(item.choices) > 1 for item in task.items("test"))

"""Locating: what a lens sees, which halves and neurons raise an answer, within bounded memory."""

from __future__ import annotations

import math
from types import SimpleNamespace

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import pair_of, word_task
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pktkit.encoding import EncodedItem
from pktkit.errors import DoesNotFitError, NonFiniteError, PairIncompatibleError, UsageError
from pktkit.probe import Probe
from pktkit.testing import FAMILIES, tiny_loaded
from pktkit.values import Origin
from pktkit_laten.attribution import (
    Attribution,
    AttributionOptions,
    paired_blocks,
    strongest_blocks,
)
from pktkit_laten.lens import Lens, chunk_sizes
from pktkit_laten.matcher import NeuronAttributionMatcher, NeuronAttributionOptions
from pktkit_laten.neurons import transfer_count, value_rows
from pktkit_laten.reading import Half, answer_tokens, read_item

ITEM = EncodedItem("one", (1, 7, 21, 9, 30, 12, 2), supervised=4, ends=True)
ROOMY = 1 << 24


def attribution(model, item=ITEM, **options):
    return Attribution.of(model, item, AttributionOptions(**options))


def model_logits(model, item=ITEM):
    ids = torch.tensor([item.input_ids])
    with torch.no_grad():
        return model.model(input_ids=ids, use_cache=False).logits[0].float()


# --- the lens ------------------------------------------------------------------------------


class FlatNorm(torch.nn.Module):
    eps = 0.0


def flat_anatomy():
    """Two channels, two tokens, an identity for a head."""
    return SimpleNamespace(
        width=2,
        vocab_rows=2,
        head_weight=torch.eye(2),
        head=SimpleNamespace(bias=None),
        final_norm=FlatNorm(),
        final_norm_gain=lambda: torch.ones(2),
        final_norm_bias=lambda: None,
        model=SimpleNamespace(config=SimpleNamespace()),
    )


def test_gains_of_a_hand_computed_example():
    lens = Lens(flat_anatomy(), "rmsnorm", ROOMY)
    base, column, c = torch.zeros(2), torch.tensor([[1.0], [0.0]]), torch.tensor([math.log(3)])
    one = lens.denominators(torch.tensor([[1.0, 1.0]]))[0]
    # From (1/2, 1/2) to (3/4, 1/4).
    assert float(lens.gains(base, column, c, 0, one)) == pytest.approx(math.log(1.5), abs=1e-6)
    assert float(lens.gains(base, column, c, 1, one)) == pytest.approx(-math.log(2), abs=1e-6)


def test_denominators_of_both_lenses():
    final = torch.tensor([[2.0, 0.0]])
    assert float(Lens(flat_anatomy(), "rmsnorm", ROOMY).denominators(final)) == pytest.approx(
        math.sqrt(2)
    )
    # A variance of 1: the released lens divides by the root of the deviation, not of the square.
    assert float(Lens(flat_anatomy(), "released", ROOMY).denominators(4 * final)) == pytest.approx(
        2.0, abs=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_on_the_last_state_is_the_model(family):
    """Norm statistic, gain offset, centring, biases and soft-capping, whatever the family."""
    extra = {"final_logit_softcapping": 3.0} if family == "gemma2" else {}
    model = tiny_loaded(family, **extra)
    seen = attribution(model, target="all_answer_tokens")
    lens, reading = seen.lens, seen.reading
    found = torch.stack(
        [
            lens.log_probabilities(state, d)
            for state, d in zip(reading.final, lens.denominators(reading.final), strict=True)
        ]
    )
    expected = model_logits(model)[3:5].log_softmax(dim=-1)
    assert torch.allclose(found, expected, atol=2e-5)
    assert reading.gold == (30, 12)


# --- readings ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "opt", "phi"])
def test_halves_are_sums_of_neurons_and_bases_are_what_they_read(family):
    model = tiny_loaded(family)
    reading = attribution(model).reading
    parallel = family in ("gpt_neox", "phi")
    for block in range(model.anatomy.n_blocks):
        for half in Half:
            read = reading.halves[half][block]
            projection = model.anatomy.projections(block)[half.writer]
            total = read.coefficients @ projection.read(model.model).T
            bias = projection.read_bias(model.model)
            total = total if bias is None else total + bias
            total = total if read.gain is None else total * read.gain
            assert torch.allclose(total, read.step, atol=1e-4)
        attention, ffn = (reading.halves[half][block] for half in Half)
        assert torch.allclose(
            ffn.base, attention.base if parallel else attention.base + attention.step, atol=1e-5
        )
        output = attention.base + attention.step + ffn.step
        following = [r.base for r in reading.halves[Half.ATTENTION]] + [reading.final]
        assert torch.allclose(output, following[block + 1], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox"])
def test_last_key_is_the_diagonal_of_attention(family):
    model = tiny_loaded(family)
    anatomy = model.anatomy
    found = read_item(model, ITEM, "all_answer_tokens", "last_key").halves[Half.ATTENTION]
    values = {}
    handles = []
    for block in range(anatomy.n_blocks):
        projection = anatomy.projections(block)["v"]
        rows = slice(None) if projection.rows is None else projection.rows

        def keep(module, args, output, block=block, rows=rows):
            values[block] = output[0][:, rows]

        module = model.model.get_submodule(projection.module)
        handles.append(module.register_forward_hook(keep))
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.model(
            input_ids=torch.tensor([ITEM.input_ids]), output_attentions=True, use_cache=False
        )
    for handle in handles:
        handle.remove()
    group = anatomy.n_heads // anatomy.n_kv_heads
    for block, read in enumerate(found):
        for p, position in enumerate((3, 4)):
            diagonal = output.attentions[block][0, :, position, position]
            own = values[block][position].view(anatomy.n_kv_heads, anatomy.head_dim)
            expected = diagonal[:, None] * own.repeat_interleave(group, dim=0)
            assert torch.allclose(read.coefficients[p], expected.flatten(), atol=1e-5)


def test_a_first_token_attends_to_itself_alone():
    model = tiny_loaded("llama")
    item = EncodedItem("first", (1, 9, 2), supervised=1, ends=True)
    whole = read_item(model, item, "last_token", "sum").halves[Half.ATTENTION]
    alone = read_item(model, item, "last_token", "last_key").halves[Half.ATTENTION]
    for a, b in zip(whole, alone, strict=True):
        assert torch.allclose(a.coefficients, b.coefficients, atol=1e-6)


def test_blocks_that_are_no_sums_are_refused():
    model = tiny_loaded("opt")
    model.model.model.decoder.layers[0].do_layer_norm_before = False
    with pytest.raises(PairIncompatibleError, match="block 0 of this 'opt' model"):
        attribution(model)


class Spelling:
    """A tokenizer that only decodes."""

    def decode(self, ids):
        return {1: "<s>", 2: "</s>", 3: "24", 4: ".", 5: ' "', 6: ")\n", 7: "]", 8: "So"}[ids[0]]


def test_the_last_token_is_the_last_that_is_not_closing_punctuation():
    ids = (1, 8, 3, 8, 3, 4, 5, 6, 7, 2)
    item = EncodedItem("a", ids, supervised=3, ends=True)
    assert answer_tokens(Spelling(), item, "last_token") == (4,)
    assert answer_tokens(Spelling(), item, "all_answer_tokens") == (3, 4, 5, 6, 7, 8)
    cut = attrs.evolve(item, input_ids=ids[:4], ends=False)
    assert answer_tokens(Spelling(), cut, "last_token") == (3,)


@pytest.mark.parametrize("answer", [(), (4, 7)])
def test_an_empty_answer_names_its_item(answer):
    item = EncodedItem("row-17", (1, 8, *answer, 2), supervised=2, ends=True)
    with pytest.raises(UsageError, match="row-17 has an empty answer"):
        answer_tokens(Spelling(), item, "last_token")


# --- neurons -------------------------------------------------------------------------------


def brute_force(model, reading, half, block, position):
    """Score every neuron on its own, in fp64, with the norm's denominator held."""
    anatomy, read = model.anatomy, reading.halves[half][block]
    final = reading.final[position].double()
    norm = anatomy.final_norm
    centre = isinstance(norm, torch.nn.LayerNorm)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    middle = final.mean() if centre else 0.0
    denominator = ((final - middle).square().mean() + eps).sqrt()
    weight = anatomy.projections(block)[half.writer].read(model.model).double()
    bias, beta = anatomy.head.bias, anatomy.final_norm_bias()

    def log_p(state):
        shifted = state - state.mean() if centre else state
        normed = shifted / denominator * anatomy.final_norm_gain().double()
        normed = normed if beta is None else normed + beta.double()
        logits = anatomy.head_weight.double() @ normed
        return (logits if bias is None else logits + bias.double()).log_softmax(0)

    gain = 1.0 if read.gain is None else read.gain[position].double()
    base, gold = read.base[position].double(), reading.gold[position]
    with torch.no_grad():
        return torch.stack(
            [
                log_p(base + c.double() * weight[:, i] * gain)[gold] - log_p(base)[gold]
                for i, c in enumerate(read.coefficients[position])
            ]
        )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi"])
@pytest.mark.parametrize("half", list(Half))
def test_neuron_scores_equal_brute_force(family, half):
    model = tiny_loaded(family, final_logit_softcapping=None)
    seen = attribution(model, target="all_answer_tokens")
    expected = sum(brute_force(model, seen.reading, half, 1, p) for p in range(2)) / 2
    assert torch.allclose(seen.neuron_scores(half, 1).double(), expected, atol=1e-5)
    order = torch.sort(expected, descending=True).indices[:5]
    assert torch.equal(seen.strongest(half, 1, 5), order)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_a_score_is_what_ablating_the_neuron_takes_away(family):
    """Put `c_i = 0` in the last block of the running model and look through the lens again."""
    model = tiny_loaded(family)
    seen = attribution(model)
    reading, lens, last = seen.reading, seen.lens, model.anatomy.n_blocks - 1
    denominator, gold = lens.denominators(reading.final)[0], reading.gold[0]
    down = model.anatomy.projections(last)["down"]
    columns, read = down.read(model.model), reading.halves[Half.FFN][last]
    for neuron in (0, 11, 40):

        def ablate(module, args, neuron=neuron):
            c = args[0].clone()
            c[..., neuron] = 0
            return (c,)

        module = model.model.get_submodule(down.module)
        handle = module.register_forward_pre_hook(ablate)
        without = attribution(model).reading.final[0]
        handle.remove()
        gain = lens.gains(
            without,
            columns[:, neuron : neuron + 1],
            read.coefficients[0, neuron : neuron + 1],
            gold,
            denominator,
        )
        with_neuron = lens.log_probabilities(reading.final[0], denominator)[gold]
        without_neuron = lens.log_probabilities(without, denominator)[gold]
        assert float(gain) == pytest.approx(float(with_neuron - without_neuron), abs=1e-5)


def test_block_scores_are_gains_of_whole_halves():
    model = tiny_loaded("llama")
    seen = attribution(model)
    lens, denominator = seen.lens, seen.lens.denominators(seen.reading.final)[0]
    for half in Half:
        for block, score in enumerate(seen.block_scores(half)):
            read = seen.reading.halves[half][block]
            before, after = (
                lens.log_probabilities(state, denominator)[seen.reading.gold[0]]
                for state in (read.base[0], read.base[0] + read.step[0])
            )
            assert float(score) == pytest.approx(float(after - before), abs=1e-5)


class Largest(TorchDispatchMode):
    """Notes the most bytes that one new tensor takes."""

    def __init__(self, known):
        super().__init__()
        self.known, self.bytes = {t.untyped_storage().data_ptr() for t in known}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            storage = leaf.untyped_storage() if isinstance(leaf, torch.Tensor) else None
            if storage is not None and storage.data_ptr() not in self.known:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


def test_chunks_bound_every_table_and_do_not_change_the_scores():
    model = tiny_loaded("llama", vocab=97, ffn=60)
    seen = attribution(model)
    read, columns = seen.reading.halves[Half.FFN][1], torch.randn(32, 60)
    denominator = seen.lens.denominators(seen.reading.final)[0]
    arguments = (read.base[0], columns, read.coefficients[0], 12, denominator)
    whole = Lens(model.anatomy, "rmsnorm", ROOMY).gains(*arguments)
    with Largest([columns, *model.model.parameters()]) as roomy:
        Lens(model.anatomy, "rmsnorm", ROOMY).gains(*arguments)
    assert roomy.bytes == 60 * 97 * 4
    for limit in (2_000, 4_000, 20_000):
        with Largest([columns, *model.model.parameters()]) as seen_bytes:
            part = Lens(model.anatomy, "rmsnorm", limit).gains(*arguments)
        # One vector over the vocabulary or over the neurons is allowed, no table of them.
        assert seen_bytes.bytes <= max(limit, 97 * 4)
        assert torch.allclose(part, whole, atol=1e-5)
    with pytest.raises(DoesNotFitError, match="chunk_bytes=64"):
        Lens(model.anatomy, "rmsnorm", 64).gains(*arguments)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 20_000), st.integers(1, 200_000), st.integers(1, 8_192), st.integers(1, 2**30)
)
def test_chunk_sizes_stay_within_their_bound(neurons, words, width, limit):
    try:
        at_once, tokens = chunk_sizes(neurons, words, width, limit)
    except DoesNotFitError as error:
        enough = int(str(error).split("at least ")[1].rstrip("."))
        assert limit < enough
        chunk_sizes(neurons, words, width, enough)
        return
    assert 1 <= at_once <= neurons and 1 <= tokens <= words
    assert 4 * (2 * width * (at_once + tokens) + 4 * at_once * tokens) <= limit


def test_scores_that_are_not_finite_name_item_block_and_half():
    model = tiny_loaded("llama")
    with torch.no_grad():
        model.model.model.layers[1].mlp.down_proj.weight[0, 3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"block 1 in 'llama' .* item one"):
        attribution(model).neuron_scores(Half.FFN, 1)


# --- choices -------------------------------------------------------------------------------


def test_ties_keep_the_lower_index(monkeypatch):
    seen = attribution(tiny_loaded("llama"))
    scores = torch.tensor([0.5, 2.0, 0.5, 2.0, 0.5])
    monkeypatch.setattr(Attribution, "neuron_scores", lambda self, half, block: scores)
    assert seen.strongest(Half.FFN, 0, 4).tolist() == [1, 3, 0, 2]
    assert strongest_blocks(torch.tensor([1.0, 3.0, 1.0, 3.0]), 3) == (0, 1, 3)


def test_blocks_are_paired_in_their_order():
    source, target = torch.tensor([0.1, 5.0, -1.0, 2.0]), torch.tensor([1.0, 0.0, 3.0])
    assert paired_blocks(source, target) == ((0, 0), (1, 1), (3, 2))
    # A deeper target receives into its own strongest blocks.
    assert paired_blocks(target[:2], source) == ((0, 1), (1, 3))


def test_key_value_head_map_by_hand():
    anatomy = SimpleNamespace(n_heads=4, n_kv_heads=2, head_dim=3)
    assert value_rows(anatomy, torch.tensor([0, 5, 7, 11])).tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2", "gpt_neox"])
def test_a_value_row_feeds_exactly_the_attention_neurons_mapped_to_it(family):
    model = tiny_loaded(family)
    anatomy = model.anatomy
    projection = anatomy.projections(0)["v"]
    before = read_item(model, ITEM, "last_token", "sum").halves[Half.ATTENTION][0].coefficients
    row = 5
    value = projection.read(model.model)
    value[row] += 1.0
    with torch.no_grad():
        model.model.get_parameter(projection.parameter).copy_(
            projection.compose(model.model, value)
        )
    after = read_item(model, ITEM, "last_token", "sum").halves[Half.ATTENTION][0].coefficients
    moved = (before - after)[0].abs() > 1e-6
    neurons = torch.arange(anatomy.n_heads * anatomy.head_dim)
    assert torch.equal(moved, value_rows(anatomy, neurons) == row)


def test_counts_are_a_share_of_the_target_within_the_source():
    pair = pair_of("gemma", target={"ffn": 300})
    assert transfer_count(pair, Half.FFN, 0.1) == 30
    assert transfer_count(pair, Half.FFN, 1.0) == 72
    assert transfer_count(pair, Half.ATTENTION, 0.1) == 6
    with pytest.raises(UsageError, match=r"none of the 64 attention neurons.*at least 0.0157"):
        transfer_count(pair, Half.ATTENTION, 0.01)


def test_matcher_links_by_mean_scores_of_one_half():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    items = probe.encoded("extract", Origin.SOURCE).items[:3]
    means = {
        half: torch.stack([attribution(pair.source, i).block_scores(half) for i in items]).mean(0)
        for half in Half
    }
    for half in Half:
        options = NeuronAttributionOptions(half=str(half), examples=3)
        found = NeuronAttributionMatcher(options).match(pair, probe)
        assert found.scores == pytest.approx(means[half].tolist(), abs=1e-6)
        kept = strongest_blocks(means[half], 3)
        assert [(link.target, link.sources[0]) for link in found.links] == list(enumerate(kept))
        other = next(h for h in Half if h is not half)
        listed = " ".join(f"{s}→{t}" for t, s in enumerate(strongest_blocks(means[other], 3)))
        assert found.note.endswith(f"by the {other} halves: {listed}")

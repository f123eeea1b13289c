"""The journal undoes everything bit for bit; adapters merge in fp32 and leave nothing behind."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import data_for, logits, pair_of, same_bits, snapshot, tree, word_task
from torch import nn

from pktkit.errors import JournalError, NonFiniteError, UsageError
from pktkit.journal import Journal, fingerprint
from pktkit.probe import Probe
from pktkit.testing import tiny_loaded
from pktkit.training.adapters import LoraShape, added_weight, lora
from pktkit.training.loop import row_order, train
from pktkit.training.objectives import CrossEntropy

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma")


class Small(nn.Module):
    """Two parameters and a buffer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4).to(dtype))
        self.v = nn.Parameter(torch.ones(5, dtype=dtype), requires_grad=False)
        self.register_buffer("b", torch.arange(3.0))


@attrs.frozen
class Handle:
    """What a journal needs of a loaded model."""

    model: nn.Module


def small(dtype=torch.float32):
    return Handle(Small(dtype))


def bits(tensor):
    return tensor.detach().contiguous().view(torch.uint8).clone()


def special(dtype, payloads):
    """Build a tensor from raw bits: NaN payloads, infinities, signed zeros, denormals."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    width = 8 * dtype.itemsize
    signed = [
        (p % 2**width) - (2**width if p % 2**width >= 2 ** (width - 1) else 0) for p in payloads
    ]
    return torch.tensor(signed, dtype=integer).view(dtype)


# --- rollback and verification -------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 2**64 - 1), min_size=12, max_size=12),
    st.lists(st.integers(0, 2**64 - 1), min_size=12, max_size=12),
)
def test_rollback_restores_every_bit(dtype, first, second):
    handle = small(dtype)
    with torch.no_grad():
        handle.model.w.copy_(special(dtype, first).reshape(3, 4))
    before = bits(handle.model.w)
    journal = Journal(handle)
    journal.touch(["w"])
    with torch.no_grad():
        handle.model.w.copy_(special(dtype, second).reshape(3, 4))
    assert (journal.changed() == ("w",)) == (not torch.equal(bits(handle.model.w), before))
    journal.rollback()
    assert torch.equal(bits(handle.model.w), before)
    assert journal.touched == () and journal.changed() == ()


def test_negative_zero_and_nan_payloads_count_as_changes():
    handle = small()
    journal = Journal(handle)
    with torch.no_grad():
        handle.model.w[0, 0] = 0.0
        journal.touch(["w"])
        handle.model.w[0, 0] = -0.0
    assert journal.changed() == ("w",)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_verify_sees_a_change_of_any_single_bit(data):
    handle = small(data.draw(st.sampled_from(DTYPES)))
    name = data.draw(st.sampled_from(("w", "v", "b")))
    journal = Journal(handle)
    journal.verify()
    raw = getattr(handle.model, name).detach().view(torch.uint8).flatten()
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(JournalError, match=f"'{name}'"):
        journal.verify()


@pytest.mark.parametrize("change", [lambda w: w * 2, lambda w: w / 2, lambda w: -w, lambda w: w.T])
def test_fingerprint_sees_the_same_change_of_every_element(change):
    weight = torch.rand(2048, 2048, generator=torch.Generator().manual_seed(0)) + 0.25
    assert fingerprint(weight) != fingerprint(change(weight))


def test_fingerprint_does_not_depend_on_strides():
    weight = torch.randn(30, 20)
    assert fingerprint(weight.T) == fingerprint(weight.T.contiguous())
    assert fingerprint(torch.tensor(3)) != fingerprint(torch.tensor(4))
    assert fingerprint(torch.tensor([True])) != fingerprint(torch.tensor([False]))
    assert fingerprint(torch.empty(0)) == 0


def test_leaving_after_a_change_behind_its_back_rolls_back_and_raises():
    handle = small()
    before = bits(handle.model.w)
    with pytest.raises(JournalError, match="'v' was changed"), Journal(handle) as journal:
        journal.write("w", torch.zeros(3, 4))
        handle.model.v.data += 1
    assert torch.equal(bits(handle.model.w), before)


def test_swapped_parameters_and_buffers_are_seen():
    handle = small()
    journal = Journal(handle)
    handle.model.w = nn.Parameter(handle.model.w.detach().clone())
    with pytest.raises(JournalError, match="replaced"):
        journal.verify()
    handle = small()
    journal = Journal(handle)
    handle.model.b = torch.zeros(3)
    with pytest.raises(JournalError, match="'b' was changed"):
        journal.verify()
    handle = small()
    journal = Journal(handle)
    handle.model.register_buffer("extra", torch.zeros(1))
    with pytest.raises(JournalError, match="extra"):
        journal.verify()


# --- writing -------------------------------------------------------------------------------


def test_write_validates_before_it_touches():
    handle = small(torch.float16)
    journal = Journal(handle)
    before = bits(handle.model.w)
    for name, value, message in (
        ("weight", torch.zeros(3, 4), "no parameter 'weight'"),
        ("w", torch.zeros(4, 3), r"\(3, 4\).*\(4, 3\)"),
        ("w", torch.full((3, 4), float("inf")), "not finite"),
        ("w", torch.full((3, 4), 1e6), "not finite in torch.float16"),
    ):
        with pytest.raises(JournalError, match=message):
            journal.write(name, value)
    assert journal.touched == () and torch.equal(bits(handle.model.w), before)


def test_delta_is_what_was_added():
    handle = small()
    journal = Journal(handle)
    journal.write("w", handle.model.w + 0.5)
    journal.write("v", handle.model.v.detach())
    assert journal.touched == ("w", "v") and journal.changed() == ("w",)
    assert journal.delta().keys() == {"w"}
    assert torch.allclose(journal.delta()["w"], torch.full((3, 4), 0.5))
    journal.write("w", handle.model.w + 0.25)
    assert torch.allclose(journal.delta()["w"], torch.full((3, 4), 0.75))


def test_training_opens_exactly_the_named_parameters():
    handle = small()
    journal = Journal(handle)
    with journal.training(["v"]) as parameters:
        assert parameters == [handle.model.v]
        assert handle.model.v.requires_grad and not handle.model.w.requires_grad
        handle.model.v.grad = torch.ones(5)
        with journal.training(["w"]):
            assert handle.model.w.requires_grad and not handle.model.v.requires_grad
        assert handle.model.v.requires_grad and not handle.model.w.requires_grad
    assert handle.model.w.requires_grad and not handle.model.v.requires_grad
    assert handle.model.v.grad is None
    with pytest.raises(JournalError), journal.training(["x"]):
        pass
    assert handle.model.w.requires_grad and not handle.model.v.requires_grad


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_restores_values_flags_and_gradients(error):
    handle = small()
    before = bits(handle.model.v)
    with pytest.raises(error), Journal(handle) as journal, journal.training(["v"]) as (v,):
        torch.optim.SGD([v], lr=1.0)
        v.grad = torch.ones(5)
        with torch.no_grad():
            v -= v.grad
        raise error
    assert torch.equal(bits(handle.model.v), before)
    assert not handle.model.v.requires_grad and handle.model.v.grad is None


# --- adapters ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_merges_in_fp32_and_casts_once(family, dtype):
    target = tiny_loaded(family)
    target.model.to(dtype)
    before, shape = snapshot(target), tree(target)
    with Journal(target) as journal:
        with lora(target, journal, LoraShape(rank=3, alpha=6.0), seed=1) as adapter:
            assert all(p.dtype == torch.float32 for p in adapter.parameters)
            assert not adapter.model.training
            deltas = {}
            for name, layer in adapter.layers().items():
                with torch.no_grad():
                    layer.lora_B["default"].weight.normal_()
                deltas[f"{name}.weight"] = added_weight(layer).clone()
        now = snapshot(target)
    assert set(journal.changed()) == set(deltas)
    for name, value in now.items():
        expected = (before[name].float() + deltas.get(name, 0.0)).to(dtype)
        assert torch.equal(value, expected)
    assert tree(target) == shape
    assert all(p.requires_grad and p.grad is None for p in target.model.parameters())


def test_merged_adapter_computes_what_the_adapter_did():
    for family in FAMILIES:
        target = tiny_loaded(family, tied=False)
        kinds = (*target.anatomy.projection_names, "embed", "head")
        module = target.anatomy.projections(1)["q"].module
        with Journal(target) as journal:
            shape = LoraShape(rank=3, alpha=6.0, kinds=kinds)
            with lora(target, journal, shape, ranks={module: 7}, seed=1) as adapter:
                layers = adapter.layers()
                assert layers[module].r["default"] == 7
                assert {layer.scaling["default"] for layer in layers.values()} == {2.0}
                with torch.no_grad():
                    for parameter in adapter.parameters:
                        parameter.normal_(0.0, 0.1)
                trained = logits(adapter.model)
        assert torch.allclose(logits(target), trained, atol=1e-4)


def test_adapter_can_be_kept_to_some_blocks():
    target = tiny_loaded("llama")
    journal = Journal(target)
    with lora(target, journal, LoraShape(rank=2, kinds=("up",)), blocks=[1]) as adapter:
        assert list(adapter.layers()) == ["model.layers.1.mlp.up_proj"]
    assert journal.touched == ("model.layers.1.mlp.up_proj.weight",)
    assert journal.changed() == ()


def test_an_exception_drops_the_adapter():
    target = tiny_loaded("gpt2")
    for parameter in list(target.model.parameters())[::2]:
        parameter.requires_grad_(False)
    flags = [p.requires_grad for p in target.model.parameters()]
    before, shape = snapshot(target), tree(target)
    journal = Journal(target)
    with pytest.raises(RuntimeError), lora(target, journal, LoraShape()) as adapter:
        with torch.no_grad():
            for parameter in adapter.parameters:
                parameter.fill_(1.0)
        raise RuntimeError
    assert same_bits(target, before) and tree(target) == shape and not journal.touched
    assert [p.requires_grad for p in target.model.parameters()] == flags


def test_a_merge_that_is_not_finite_is_refused_and_undone():
    target = tiny_loaded("llama")
    before, shape = snapshot(target), tree(target)
    with (
        pytest.raises(JournalError, match="not finite"),
        Journal(target) as journal,
        lora(target, journal, LoraShape()) as adapter,
        torch.no_grad(),
    ):
        adapter.parameters[-1].fill_(float("nan"))
    assert same_bits(target, before) and tree(target) == shape


def test_adapter_refuses_what_it_cannot_merge():
    target = tiny_loaded("llama", tied=True)
    tied_end = LoraShape(kinds=("q", "head"))
    with pytest.raises(UsageError, match="ties"), lora(target, Journal(target), tied_end):
        pass
    with (
        lora(target, Journal(target), LoraShape(rank=2, kinds=("q",))) as adapter,
        pytest.raises(JournalError, match=r"\(2, 32\).*\(3, 32\)"),
    ):
        adapter.start("model.layers.0.self_attn.q_proj", torch.ones(32, 2), torch.ones(3, 32))


def test_adapters_start_from_their_seed():
    starts = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        target = tiny_loaded("llama")
        state = torch.random.get_rng_state()
        with lora(target, Journal(target), LoraShape(), seed=7) as adapter:
            starts.append(adapter.parameters[0].detach().clone())
        assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(*starts)


# --- training inside both ------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_training_keeps_mode_and_random_state(family):
    pair = pair_of(family)
    data = data_for(Probe(pair, word_task()))
    state, shape = torch.random.get_rng_state(), tree(pair.target)
    with (
        Journal(pair.target) as journal,
        lora(pair.target, journal, LoraShape(dropout=0.2), seed=1) as adapter,
    ):
        log = train(pair.target, adapter.parameters, data, CrossEntropy(), model=adapter.model)
    assert log.steps == 3 and tree(pair.target) == shape
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_loss_that_is_not_finite_names_step_and_items():
    pair = pair_of("llama")
    data = data_for(Probe(pair, word_task()))
    names = pair.target.anatomy.block_parameters(0)
    before = snapshot(pair.target)
    with (
        pytest.raises(NonFiniteError, match=r"step 1, batch of items i\d"),
        Journal(pair.target) as journal,
        journal.training(names) as parameters,
    ):
        with torch.no_grad():
            parameters[0][0, 0] = float("nan")
        train(pair.target, parameters, data, CrossEntropy())
    assert same_bits(pair.target, before) and not pair.target.model.training


def test_no_rows_is_an_error_and_epochs_visit_every_row():
    with pytest.raises(UsageError, match="no rows"):
        next(row_order([], 2, 0))
    groups = row_order([4, 5, 6], 2, 0)
    seen = [row for _ in range(3) for row in next(groups)]
    assert sorted(seen[:3]) == sorted(seen[3:]) == [4, 5, 6]

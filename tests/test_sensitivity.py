"""The sensitivity pass: the right numbers, one gradient at a time, sums on disk."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_transfers import pair_of, same_bits, snapshot, word_task

from pktkit.encoding import encode_split
from pktkit.errors import NonFiniteError
from pktkit.probe import Probe, ReadingCache
from pktkit.probe.passes import attribution_pass, sensitivity_pass, sensitivity_shapes
from pktkit.probe.scratch import zeros


def encoded(pair, rows=3):
    return encode_split(
        pair.source.tokenizer, word_task(rows).items("train"), name="x", join="plain", max_length=64
    )


def test_the_head_bias_of_a_hand_computed_loss():
    """A zero LM head gives uniform probabilities: ∂L/∂b = 1/V − the token's share of answers."""
    pair = pair_of("phi")
    vocab = pair.source.anatomy.vocab_rows
    with torch.no_grad():
        pair.source.anatomy.head_weight.zero_()
        pair.source.anatomy.head.bias.fill_(2.0)
    split = encoded(pair)
    expected = torch.zeros(vocab)
    for item in split.items:
        answers = torch.tensor(item.input_ids[item.supervised :])
        share = torch.bincount(answers, minlength=vocab) / len(answers)
        expected += (2.0 * (1 / vocab - share)).abs()
    totals = zeros(sensitivity_shapes(pair.source), None)
    sensitivity_pass(pair.source, split, totals)
    torch.testing.assert_close(totals["lm_head.bias"], expected)
    assert totals["lm_head.weight"].abs().max() == 0  # |w · ∂L/∂w| of a weight that is zero
    losses = attribution_pass(pair.source, split)["loss"]
    torch.testing.assert_close(losses, torch.full((3,), math.log(vocab)))


def test_absolute_values_are_taken_item_by_item():
    pair = pair_of("llama")
    together = zeros(sensitivity_shapes(pair.source), None)
    sensitivity_pass(pair.source, encoded(pair, 2), together)
    alone = zeros(sensitivity_shapes(pair.source), None)
    split = encoded(pair, 2)
    for item in split.items:
        part = type(split)(split.name, (item,))
        sensitivity_pass(pair.source, part, alone)
    for name, total in together.items():
        assert total.min() >= 0
        torch.testing.assert_close(total, alone[name])


def test_no_two_gradients_of_large_matrices_exist_at_once(monkeypatch):
    """When a matrix's gradient is taken, no matrix of another block still holds one."""
    pair = pair_of("llama")
    parameters = dict(pair.source.model.named_parameters())
    most = 0
    original = torch.Tensor.abs_

    def counting(self):
        nonlocal most
        most = max(most, sum(p.grad is not None for p in parameters.values()))
        return original(self)

    monkeypatch.setattr(torch.Tensor, "abs_", counting)
    sensitivity_pass(pair.source, encoded(pair), zeros(sensitivity_shapes(pair.source), None))
    assert most == 1


@pytest.mark.parametrize("wanted", [attribution_pass, sensitivity_pass])
def test_a_pass_leaves_flags_gradients_and_weights_as_they_were(wanted):
    pair = pair_of("qwen2")
    model, before = pair.source.model, snapshot(pair.source)
    norm = model.get_parameter("model.norm.weight").requires_grad_(True)
    norm.grad = kept = torch.ones_like(norm)
    totals = zeros(sensitivity_shapes(pair.source), None)
    wanted(pair.source, encoded(pair), *([totals] if wanted is sensitivity_pass else []))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad is (name == "model.norm.weight")
        assert parameter.grad is (kept if name == "model.norm.weight" else None)
        assert not parameter._post_accumulate_grad_hooks
    assert same_bits(pair.source, before)


def test_attribution_gives_parameters_no_gradient(monkeypatch):
    """Even where the caller's parameters want one."""
    pair = pair_of("gpt2")
    pair.source.model.requires_grad_(True)
    before = attribution_pass(pair.source, encoded(pair))
    pair.source.model.requires_grad_(False)
    after = attribution_pass(pair.source, encoded(pair))
    assert torch.equal(before["attribution"], after["attribution"])


def test_what_is_not_finite_names_item_and_parameter():
    pair = pair_of("llama")
    shapes, split = sensitivity_shapes(pair.source), encoded(pair)
    handle = pair.source.anatomy.head.register_forward_hook(lambda m, a, out: out * torch.inf)
    for run in (
        lambda: attribution_pass(pair.source, split),
        lambda: sensitivity_pass(pair.source, split, zeros(shapes, None)),
    ):
        with pytest.raises(NonFiniteError, match="loss is not finite on item i0 of split 'x'"):
            run()
    handle.remove()
    gate = pair.source.model.get_submodule("model.layers.1.mlp.gate_proj")
    gate.register_full_backward_pre_hook(lambda m, grads: (grads[0] * torch.nan,))
    with pytest.raises(NonFiniteError, match=r"gradient of 'model\.\S+' is not finite on item i0"):
        sensitivity_pass(pair.source, split, zeros(shapes, None))


def test_sums_on_disk_equal_those_in_memory_and_leave_no_file(tmp_path):
    pair = pair_of("llama")
    memory = Probe(pair, word_task(3)).sensitivities()
    disk = Probe(pair, word_task(3), cache=ReadingCache(tmp_path)).sensitivities()
    assert memory.keys() == disk.keys()
    assert all(torch.equal(memory[name], disk[name]) for name in memory)
    assert len(list(tmp_path.glob("*/shard-*"))) == 1 and not list(tmp_path.glob("*.part"))


def test_mapped_zeros_are_written_and_read_like_any_tensor(tmp_path):
    found = zeros({"a": (2, 3), "b": (), "c": (4,)}, tmp_path / "new")
    assert [tuple(t.shape) for t in found.values()] == [(2, 3), (), (4,)]
    assert all(float(t.sum()) == 0 for t in found.values())
    found["a"] += 1
    found["c"][2] = 5
    assert float(found["a"].sum()) == 6 and float(found["b"]) == 0 and float(found["c"].sum()) == 5
    assert not list((tmp_path / "new").iterdir())


def test_a_directory_that_cannot_be_used_is_given_up(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a directory")
    assert zeros({"a": (2,)}, file / "below")["a"].tolist() == [0, 0]


def test_a_disk_without_room_is_given_up(tmp_path, monkeypatch):
    def refuse(descriptor, start, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    assert zeros({"a": (2,)}, tmp_path)["a"].tolist() == [0, 0]

"""Laws of the family table: what is read and composed means the same in every architecture."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pktkit.errors import PairIncompatibleError, UsageError
from pktkit.families import PROJECTIONS, Anatomy, Projection, supported_model_types
from pktkit.testing import FAMILIES, tiny_model

TOKENS = torch.tensor([[1, 5, 9, 13, 7, 22, 40], [1, 8, 30, 4, 4, 17, 60]])
BLOCK = 1


@functools.cache
def shared(family: str) -> Anatomy:
    """Return a model that tests read and never leave changed."""
    return Anatomy.of(tiny_model(family, seed=3).requires_grad_(False))


@pytest.fixture(params=FAMILIES)
def anatomy(request: pytest.FixtureRequest) -> Iterator[Anatomy]:
    """Give each family's model, and put its weights back afterwards."""
    found = shared(request.param)
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    yield found
    found.model.load_state_dict(before)


def logits(anatomy: Anatomy) -> Tensor:
    found: Tensor = anatomy.model(TOKENS, attention_mask=torch.ones_like(TOKENS)).logits
    return found


def write(model: nn.Module, projection: Projection, value: Tensor) -> None:
    model.get_parameter(projection.parameter).copy_(projection.compose(model, value))


def write_bias(model: nn.Module, projection: Projection, value: Tensor) -> None:
    assert projection.bias is not None
    model.get_parameter(projection.bias).copy_(projection.compose_bias(model, value))


def scale(model: nn.Module, projection: Projection, factor: float, bias: bool = True) -> None:
    write(model, projection, projection.read(model) * factor)
    value = projection.read_bias(model)
    if bias and value is not None:
        write_bias(model, projection, value * factor)


def expected_shapes(anatomy: Anatomy) -> Mapping[str, tuple[int, int]]:
    queries, keys = anatomy.n_heads * anatomy.head_dim, anatomy.n_kv_heads * anatomy.head_dim
    width, ffn = anatomy.width, anatomy.ffn_width
    return {
        "q": (queries, width),
        "k": (keys, width),
        "v": (keys, width),
        "o": (width, queries),
        "gate": (ffn, width),
        "up": (ffn, width),
        "down": (width, ffn),
    }


def test_projection_shapes_follow_the_anatomy(anatomy: Anatomy) -> None:
    shapes = expected_shapes(anatomy)
    for block in range(anatomy.n_blocks):
        for name, projection in anatomy.projections(block).items():
            assert projection.name == name
            assert tuple(projection.read(anatomy.model).shape) == shapes[name]
            bias = projection.read_bias(anatomy.model)
            assert bias is None or tuple(bias.shape) == shapes[name][:1]


def test_sizes_are_those_asked_for(anatomy: Anatomy) -> None:
    assert (anatomy.width, anatomy.n_blocks, anatomy.n_heads) == (32, 3, 4)
    assert (anatomy.ffn_width, anatomy.vocab_rows) == (48, 61)
    assert len(anatomy.blocks) == 3
    assert anatomy.head_weight.shape == (61, 32)


def test_composing_what_was_read_changes_no_bit(anatomy: Anatomy) -> None:
    model = anatomy.model
    for projection in anatomy.projections(BLOCK).values():
        stored = model.get_parameter(projection.parameter)
        composed = projection.compose(model, projection.read(model))
        assert torch.equal(composed, stored)
        assert composed.data_ptr() != stored.data_ptr()
        bias = projection.read_bias(model)
        if bias is not None:
            assert projection.bias is not None
            stored_bias = model.get_parameter(projection.bias)
            assert torch.equal(projection.compose_bias(model, bias), stored_bias)


def test_composing_changes_one_projection_and_nothing_else(anatomy: Anatomy) -> None:
    model, projections = anatomy.model, anatomy.projections(BLOCK)
    for name, projection in projections.items():
        before = {other: projections[other].read(model) for other in projections}
        fresh = torch.randn(before[name].shape)
        write(model, projection, fresh)
        for other in projections:
            expected = fresh if other == name else before[other]
            assert torch.equal(projections[other].read(model), expected)
        write(model, projection, before[name])


def test_reading_gives_a_copy(anatomy: Anatomy) -> None:
    projection = anatomy.projections(0)["v"]
    kept = projection.read(anatomy.model)
    projection.read(anatomy.model).zero_()
    assert torch.equal(projection.read(anatomy.model), kept)


def test_a_value_of_another_shape_is_refused(anatomy: Anatomy) -> None:
    projection = anatomy.projections(0)["v"]
    with pytest.raises(UsageError, match=r"'v' of block 0 .*expected shape \(\d+, 32\), got \(3,"):
        projection.compose(anatomy.model, torch.zeros(3, 32))


def test_permuting_head_groups_leaves_logits_unchanged(anatomy: Anatomy) -> None:
    """Whole key-value groups may trade places if q, k, v and o all follow."""
    model, dim, groups = anatomy.model, anatomy.head_dim, anatomy.n_kv_heads
    before = logits(anatomy)
    order = torch.arange(groups).roll(1)

    def rows(per_group: int) -> Tensor:
        return torch.arange(groups * per_group).view(groups, per_group)[order].flatten()

    queries, keys = rows(anatomy.n_heads // groups * dim), rows(dim)
    projections = anatomy.projections(BLOCK)
    for name, index in (("q", queries), ("k", keys), ("v", keys)):
        write(model, projections[name], projections[name].read(model)[index])
        bias = projections[name].read_bias(model)
        if bias is not None:
            write_bias(model, projections[name], bias[index])
    assert not torch.allclose(logits(anatomy), before, atol=1e-3)
    write(model, projections["o"], projections["o"].read(model)[:, queries])
    torch.testing.assert_close(logits(anatomy), before, atol=2e-5, rtol=1e-4)


def test_value_and_output_scales_of_one_group_cancel(anatomy: Anatomy) -> None:
    """One group only, because a norm after attention hides a common scale."""
    model, dim = anatomy.model, anatomy.head_dim
    before = logits(anatomy)
    value, output = anatomy.projections(BLOCK)["v"], anatomy.projections(BLOCK)["o"]
    factor = torch.ones(anatomy.n_kv_heads * dim)
    factor[:dim] = 2.0
    write(model, value, value.read(model) * factor[:, None])
    bias = value.read_bias(model)
    if bias is not None:
        write_bias(model, value, bias * factor)
    assert not torch.allclose(logits(anatomy), before, atol=1e-3)
    queries = factor.view(-1, dim).repeat_interleave(anatomy.n_heads // anatomy.n_kv_heads, 0)
    write(model, output, output.read(model) / queries.flatten())
    torch.testing.assert_close(logits(anatomy), before, atol=2e-5, rtol=1e-4)


def test_query_and_key_scales_cancel(anatomy: Anatomy) -> None:
    if "q" in anatomy.norms(BLOCK):
        pytest.skip("normalised queries and keys have no scale")
    before = logits(anatomy)
    projections = anatomy.projections(BLOCK)
    scale(anatomy.model, projections["q"], 2.0)
    assert not torch.allclose(logits(anatomy), before, atol=1e-4)
    scale(anatomy.model, projections["k"], 0.5)
    torch.testing.assert_close(logits(anatomy), before, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "rotary"), [("gpt2", 0), ("opt", 0), ("gpt_neox", 2), ("phi", 4)]
)
def test_a_constant_in_all_keys_is_invisible_but_not_in_queries(family: str, rotary: int) -> None:
    """Softmax ignores a shift of all keys, where no rotation acts: this tells k from q."""
    anatomy = Anatomy.of(tiny_model(family, seed=5).requires_grad_(False))
    before = logits(anatomy)
    projections = anatomy.projections(BLOCK)
    for name, invisible in (("k", True), ("q", False)):
        bias = projections[name].read_bias(anatomy.model)
        assert bias is not None
        shifted = bias.clone().view(-1, anatomy.head_dim)
        shifted[:, rotary:] += 1.5
        write_bias(anatomy.model, projections[name], shifted.flatten())
        assert torch.allclose(logits(anatomy), before, atol=2e-5) is invisible
        write_bias(anatomy.model, projections[name], bias)


def test_permuting_neurons_leaves_logits_unchanged(anatomy: Anatomy) -> None:
    model, order = anatomy.model, torch.randperm(anatomy.ffn_width)
    before = logits(anatomy)
    projections = anatomy.projections(BLOCK)
    for name in ("gate", "up"):
        if name not in projections:
            continue
        write(model, projections[name], projections[name].read(model)[order])
        bias = projections[name].read_bias(model)
        if bias is not None:
            write_bias(model, projections[name], bias[order])
    assert not torch.allclose(logits(anatomy), before, atol=1e-3)
    write(model, projections["down"], projections["down"].read(model)[:, order])
    torch.testing.assert_close(logits(anatomy), before, atol=2e-5, rtol=1e-4)


def test_up_is_linear_where_a_gate_exists(anatomy: Anatomy) -> None:
    projections = anatomy.projections(BLOCK)
    if "gate" not in projections:
        pytest.skip("no gate")
    before = logits(anatomy)
    scale(anatomy.model, projections["up"], 2.0)
    scale(anatomy.model, projections["down"], 0.5, bias=False)
    torch.testing.assert_close(logits(anatomy), before, atol=2e-5, rtol=1e-4)
    scale(anatomy.model, projections["gate"], 2.0)
    assert not torch.allclose(logits(anatomy), before, atol=1e-3)


def test_zeroing_output_and_down_makes_a_block_the_identity(anatomy: Anatomy) -> None:
    projections = anatomy.projections(BLOCK)
    for name in ("o", "down"):
        scale(anatomy.model, projections[name], 0.0)
    for name, parameter in anatomy.norms(BLOCK).items():
        if name.startswith("post_") and name.endswith(".bias"):
            anatomy.model.get_parameter(parameter).zero_()
    seen: dict[str, Tensor] = {}
    handles = [
        anatomy.blocks[BLOCK].register_forward_pre_hook(
            lambda _, args, kwargs: seen.update(into=args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        ),
        anatomy.blocks[BLOCK].register_forward_hook(
            lambda _, args, out: seen.update(out=out[0] if isinstance(out, tuple) else out)
        ),
    ]
    logits(anatomy)
    for handle in handles:
        handle.remove()
    assert torch.equal(seen["into"], seen["out"])


def test_block_parameters_partition_the_model(anatomy: Anatomy) -> None:
    per_block = [anatomy.block_parameters(block) for block in range(anatomy.n_blocks)]
    every = [name for names in per_block for name in names]
    assert len(every) == len(set(every))
    assert len({len(names) for names in per_block}) == 1
    outside = {name for name, _ in anatomy.model.named_parameters()} - set(every)
    allowed = ("embed", "wte", "wpe", "norm", "ln_f", "lm_head")
    assert all(any(word in name for word in allowed) for name in outside)
    for block, names in enumerate(per_block):
        named = {p.parameter for p in anatomy.projections(block).values()}
        named |= {p.bias for p in anatomy.projections(block).values() if p.bias}
        assert named | set(anatomy.norms(block).values()) == set(names)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_is_read_from_storage(family: str, tied: bool) -> None:
    model = tiny_model(family, tied=tied, blocks=1)
    model.config.tie_word_embeddings = not tied
    assert Anatomy.of(model).tied is tied


def test_final_norm_gain_and_bias_explain_the_head(anatomy: Anatomy) -> None:
    """head(final_norm(h)) is (W diag(gain)) h/rms for RMS norms, centred and shifted otherwise."""
    states = torch.randn(5, anatomy.width) * 3
    gain, bias = anatomy.final_norm_gain(), anatomy.final_norm_bias()
    centred = states if bias is None else states - states.mean(-1, keepdim=True)
    normed = centred / centred.pow(2).mean(-1, keepdim=True).add(1e-5).sqrt()
    expected = normed @ (anatomy.head_weight * gain).T
    if bias is not None:
        expected = expected + anatomy.head_weight @ bias
    if anatomy.head.bias is not None:
        expected = expected + anatomy.head.bias
    found = anatomy.head(anatomy.final_norm(states))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert gain.dtype is torch.float32


def test_module_names_exist_and_fused_ones_come_once(anatomy: Anatomy) -> None:
    modules = dict(anatomy.model.named_modules())
    names = anatomy.module_names([*anatomy.projection_names, "embed", "head"])
    assert len(names) == len(set(names))
    assert all(name in modules for name in names)
    attention = anatomy.module_names(["q", "k", "v"])
    fused = anatomy.projections(0)["q"].fused
    assert len(attention) == anatomy.n_blocks * (1 if fused else 3)
    assert modules[anatomy.module_names(["head"])[0]] is anatomy.head


def test_an_unknown_kind_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown projection of family 'gpt2' 'gate'.*embed.*up"):
        shared("gpt2").module_names(["gate"])


def test_a_block_outside_the_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"block 3 is outside 0\.\.2"):
        shared("llama").projections(3)


def test_projection_order_is_canonical() -> None:
    assert tuple(shared("llama").projections(0)) == PROJECTIONS
    assert "gate" not in shared("opt").projections(0)


def test_heads_may_be_wider_than_their_share_of_the_width() -> None:
    for family in ("qwen3", "gemma"):
        assert shared(family).head_dim == 16 != shared(family).width // shared(family).n_heads


def test_an_unknown_architecture_is_named_with_the_way_out() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="lama"))
    with pytest.raises(PairIncompatibleError) as caught:
        Anatomy.of(model)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "'lama' is not supported. Did you mean 'llama'?" in message
    assert all(known in message for known in supported_model_types())
    assert "docs/families.md" in message


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"word_embed_proj_dim": 16}, "embedding of width 16 and a residual stream of width 32"),
        ({"do_layer_norm_before": False}, "no module 'model.decoder.final_layer_norm'"),
    ],
)
def test_opt_variants_are_refused(fields: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(PairIncompatibleError, match=complaint):
        Anatomy.of(tiny_model("opt", blocks=1, **fields))


def test_options_of_a_family_are_found_where_they_exist() -> None:
    biased = Anatomy.of(tiny_model("llama", blocks=1, attention_bias=True, mlp_bias=True))
    assert all(p.bias is not None for p in biased.projections(0).values())
    plain = Anatomy.of(tiny_model("gpt_neox", blocks=1, attention_bias=False))
    assert plain.projections(0)["q"].read_bias(plain.model) is None
    with pytest.raises(UsageError, match="has no bias"):
        plain.projections(0)["q"].compose_bias(plain.model, torch.zeros(32))


def test_tiny_models_leave_the_global_random_state_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first, second = (tiny_model("llama", blocks=1, seed=seed) for seed in (1, 1))
    assert torch.equal(torch.rand(2), expected)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )

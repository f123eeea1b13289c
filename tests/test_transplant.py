"""The transplant: a source block in other coordinates computes what it did in its own."""

from __future__ import annotations

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transfers import (
    data_for,
    layer_map,
    logits,
    pair_of,
    same_bits,
    snapshot,
    tree,
    word_task,
)

from pktkit.errors import NonFiniteError, PairIncompatibleError, StrategyError, UsageError
from pktkit.families import PROJECTIONS
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.state_maps import AffineMap, identity
from pktkit.testing import FAMILIES, tiny_loaded
from pktkit.values import Alignment, Interface, Origin, Space, TargetStates
from pktkit_latent.aligners.semantic import SemanticAligner, SemanticOptions
from pktkit_transplant.bases import changes, length
from pktkit_transplant.blocks import reciprocal, truncated
from pktkit_transplant.injector import Transplant, TransplantOptions
from pktkit_transplant.maps import Change, between_norms, linear_inverse, ridge_inverse
from pktkit_transplant.strategies import TRANSPLANT
from pktkit_transplant.strength import GRID, answer_loss, search, spread

EXACT = {"strength": 1.0, "rank": None, "ridge": 0.0}
SIZES = {"width": 32, "blocks": 3, "heads": 4, "kv_heads": 2, "ffn": 48}
CENTRING = ("gpt2", "gpt_neox", "opt", "phi")
POST_NORMED = ("gemma2", "gemma3_text")


def rotation(width, seed=0, *, keeps_mean=False, rows=None):
    """Draw an orthogonal matrix, or one with more rows whose columns are orthonormal."""
    generator = torch.Generator().manual_seed(seed)
    rows = rows or width
    q, _ = torch.linalg.qr(torch.randn(rows, width, generator=generator, dtype=torch.float64))
    if not keeps_mean:
        return q
    ones = torch.ones(width, 1, dtype=torch.float64) / width**0.5
    basis, _ = torch.linalg.qr(
        torch.cat([ones, torch.randn(width, width - 1, generator=generator).double()], dim=1)
    )
    inner = torch.eye(width, dtype=torch.float64)
    inner[1:, 1:] = rotation(width - 1, seed + 1)
    return basis @ inner @ basis.T


def stated(pair, matrices, links, **fields):
    """Wrap maps by target block into an alignment."""
    maps = {
        block: m if callable(m) and not isinstance(m, torch.Tensor) else AffineMap(m)
        for block, m in matrices.items()
    }
    states = TargetStates(maps, links, fields.pop("interface", Interface.RESIDUAL), **fields)
    return Alignment("given", links, target_states=states)


def transplant(pair, alignment, **options):
    settings = build_options(TransplantOptions, EXACT | options, "injector")
    with Journal(pair.target) as journal:
        injection = Transplant(settings).inject(
            pair.target, alignment, data_for(Probe(pair, word_task())), journal
        )
    return journal, injection


def whole(pair, matrix, **options):
    """Transplant block by block with one map everywhere."""
    links = layer_map(pair, *range(pair.target.anatomy.n_blocks))
    matrices = dict.fromkeys(range(pair.target.anatomy.n_blocks), matrix)
    return transplant(pair, stated(pair, matrices, links), **options)


def share_ends(source, target, matrix):
    """Give a target the source's embedding, final norm and LM head, in another basis."""
    with torch.no_grad():
        for ours, theirs in zip(source.model.modules(), target.model.modules(), strict=True):
            if isinstance(ours, torch.nn.Embedding):
                theirs.weight.copy_(ours.weight @ matrix.T.float())
        ours, theirs = source.anatomy, target.anatomy
        offset = ours.layout.gain_offset
        for norm in (ours.final_norm, theirs.final_norm):
            norm.weight.fill_(1 - offset)
        if ours.final_norm_bias() is not None:
            theirs.final_norm.bias.copy_(matrix.float() @ ours.final_norm_bias())
        if not theirs.tied:
            theirs.head_weight.copy_(ours.head_weight @ matrix.T.float())
        if ours.head.bias is not None:
            theirs.head.bias.copy_(ours.head.bias)


def even_post_norms(model):
    """Norms after the halves cannot be rotated unless all their gains are equal."""
    for block in range(model.anatomy.n_blocks):
        for name, parameter in model.anatomy.norms(block).items():
            if name.startswith("post"):
                with torch.no_grad():
                    model.model.get_parameter(parameter).fill_(0.3)


def twins(family, **sizes):
    """Build two models of one shape and different weights."""
    source = tiny_loaded(family, seed=1, **(SIZES | sizes))
    target = tiny_loaded(family, seed=2, **(SIZES | sizes))
    return ModelPair(source, target)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_into_itself_changes_nothing(family):
    pair = twins(family)
    pair = ModelPair(pair.source, tiny_loaded(family, seed=1, **SIZES))
    before = snapshot(pair.target)
    _, injection = whole(pair, torch.eye(32, dtype=torch.float64))
    now = snapshot(pair.target)
    for name, value in before.items():
        assert torch.allclose(now[name], value, atol=2e-7), name
    assert max(injection.diagnostics["relative_change"].values()) < 1e-6
    assert injection.diagnostics["length_ratio"] == pytest.approx(dict.fromkeys("012", 1.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rotated_residual_basis_gives_an_equivalent_model(family):
    pair = twins(family)
    matrix = rotation(32, keeps_mean=family in CENTRING)
    share_ends(pair.source, pair.target, matrix)
    if family in POST_NORMED:
        even_post_norms(pair.source)
        even_post_norms(pair.target)
    source_before, shape = snapshot(pair.source), tree(pair.target)
    wanted = logits(pair.source)
    assert (logits(pair.target) - wanted).abs().max() > 0.1
    journal, injection = whole(pair, matrix)
    assert torch.allclose(logits(pair.target), wanted, atol=1e-4)
    assert same_bits(pair.source, source_before) and tree(pair.target) == shape
    assert injection.diagnostics["blocks"] == [0, 1, 2]
    assert injection.diagnostics["parameters_changed"] == len(journal.changed()) > 0


def test_one_projection_with_unit_gains_equals_the_sources_bits():
    pair = twins("llama")
    for model in (pair.source, pair.target):
        for block in range(3):
            for parameter in model.anatomy.norms(block).values():
                model.model.get_parameter(parameter).data.fill_(1.0)
    whole(pair, torch.eye(32, dtype=torch.float64))
    for block in range(3):
        ours = pair.source.anatomy.projections(block)
        for name, projection in pair.target.anatomy.projections(block).items():
            new = projection.read(pair.target.model)
            assert torch.allclose(new, ours[name].read(pair.source.model), atol=2e-7), name


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_wider_target_holds_the_source_exactly(family):
    source = tiny_loaded(family, seed=1, **SIZES, tied=False, head_dim=8)
    wide = SIZES | {"width": 48}
    target = tiny_loaded(family, seed=2, **wide, tied=False, head_dim=8)
    pair = ModelPair(source, target)
    matrix = rotation(32, rows=48)
    share_ends(source, target, matrix)
    # A norm over more coordinates divides by less: sqrt(32 / 48) of what the source's does.
    target.anatomy.head_weight.data *= (32 / 48) ** 0.5
    _, injection = whole(pair, matrix)
    assert torch.allclose(logits(target), logits(source), atol=1e-4)
    assert injection.diagnostics["length_ratio"]["0"] == pytest.approx((32 / 48) ** 0.5)


def test_the_scale_of_the_stream_is_not_the_scale_of_the_weights_behind_a_norm():
    pair = twins("llama")
    matrix = 3.0 * torch.eye(32, dtype=torch.float64)
    share_ends(pair.source, pair.target, matrix)
    pair.target.anatomy.head_weight.data /= 3.0
    before = pair.source.anatomy.projections(0)["up"].read(pair.source.model)
    whole(pair, matrix)
    assert torch.allclose(logits(pair.target), logits(pair.source), atol=1e-4)
    gains = [
        m.model.model.layers[0].post_attention_layernorm.weight for m in (pair.source, pair.target)
    ]
    new = pair.target.anatomy.projections(0)["up"].read(pair.target.model)
    assert torch.allclose(new * gains[1], before * gains[0], atol=1e-6)


def test_a_target_with_a_head_per_query_takes_grouped_heads_exactly():
    source = tiny_loaded("llama", seed=1, **SIZES, head_dim=8)
    target = tiny_loaded("llama", seed=2, **(SIZES | {"kv_heads": 4}), head_dim=8)
    pair = ModelPair(source, target)
    matrix = rotation(32)
    share_ends(source, target, matrix)
    whole(pair, matrix)
    assert torch.allclose(logits(target), logits(source), atol=1e-4)


def test_gemma_gains_and_biases_cross_families():
    """The stored gain of Gemma is one less than what it multiplies by."""
    source = tiny_loaded("qwen2", seed=1, **SIZES)
    target = tiny_loaded("gemma", seed=2, **SIZES, head_dim=8, hidden_activation="silu")
    pair = ModelPair(source, target)
    matrix = rotation(32)
    whole(pair, matrix)
    ours, theirs = source.anatomy, target.anatomy
    for name in ("q", "up"):
        norm = "attention" if name == "q" else "ffn"
        gain = source.model.get_parameter(ours.norms(1)[norm])
        other = target.model.get_parameter(theirs.norms(1)[norm]) + 1
        new = theirs.projections(1)[name].read(target.model)
        given = ours.projections(1)[name].read(source.model)
        assert torch.allclose(new * other, (given * gain) @ matrix.T.float(), atol=1e-5)


def test_deeper_and_narrower_targets_leave_the_rest_alone():
    pair = pair_of("llama", source={"blocks": 2, "ffn": 40}, target={"blocks": 5})
    before = snapshot(pair.target)
    matrix = torch.randn(32, 48, generator=torch.Generator().manual_seed(3)).double()
    links = layer_map(pair, 0, 0, 1, 1)
    journal, injection = transplant(
        pair, stated(pair, {0: matrix, 1: matrix, 3: matrix}, links), modules=["v", "up", "down"]
    )
    changed = set(journal.changed())
    assert injection.diagnostics["blocks"] == [0, 1, 3]
    named = {f"model.layers.{b}." for b in (0, 1, 3)}
    assert changed and all(any(name.startswith(n) for n in named) for name in changed)
    assert all("v_proj" in n or "up_proj" in n or "down_proj" in n for n in changed)
    # 40 of 48 neurons come from the source: eight keep their own weights.
    up = "model.layers.3.mlp.up_proj.weight"
    same = (snapshot(pair.target)[up] == before[up]).all(dim=1)
    assert same.tolist() == [False] * 40 + [True] * 8


@pytest.mark.parametrize("family", FAMILIES)
def test_narrow_targets_of_every_family_stay_finite(family):
    pair = pair_of(family)
    matrix = torch.randn(32, 48, generator=torch.Generator().manual_seed(3)).double() / 7
    links = layer_map(pair, 0, 1, 3)
    before = snapshot(pair.target)
    _, injection = transplant(
        pair, stated(pair, {0: matrix, 1: matrix, 2: matrix}, links), rank=4, ridge=1e-2
    )
    assert logits(pair.target).isfinite().all()
    assert injection.steps == 0 and not injection.diagnostics["unchanged"]
    names = pair.target.anatomy.projection_names
    kept = injection.diagnostics["kept_energy"]
    assert kept.keys() == {f"{b}.{n}" for b in range(3) for n in names}
    assert all(0 < share < 1 for share in kept.values())
    for name in names:
        projection = pair.target.anatomy.projections(1)[name]
        new = projection.read(pair.target.model)
        with torch.no_grad():
            old = attrs.evolve(projection).read(restored(pair.target, before))
        assert torch.linalg.matrix_rank(new - old, rtol=1e-4) == 4


def restored(handle, before):
    """Return a copy of the model with other values."""
    import copy

    model = copy.deepcopy(handle.model)
    model.load_state_dict(before, strict=False)
    return model


def test_strength_is_linear_and_zero_keeps_the_bits():
    pair = twins("gpt_neox")
    matrix = rotation(32)
    before = snapshot(pair.target)
    journal, injection = whole(pair, matrix, strength=0.0)
    assert same_bits(pair.target, before) and journal.changed() == ()
    assert injection.diagnostics["unchanged"]
    half, _ = whole(pair, matrix, strength=0.5)
    halves = half.delta()
    half.rollback()
    assert same_bits(pair.target, before)
    full, _ = whole(pair, matrix)
    for name, delta in full.delta().items():
        assert torch.allclose(2 * halves[name], delta, atol=1e-5)


def test_auto_takes_the_best_of_the_grid_on_dev_and_never_writes_while_it_looks():
    pair = twins("llama")
    matrix = rotation(32)
    share_ends(pair.source, pair.target, matrix)
    data = data_for(Probe(pair, word_task()))
    before = snapshot(pair.target)
    deltas = {"model.layers.0.mlp.up_proj.weight": torch.randn(48, 32)}
    tried = search(pair.target, deltas, data, rows=4)
    assert same_bits(pair.target, before)
    assert tuple(tried.losses) == GRID and tried.rows == 4
    assert tried.strength == min(GRID, key=lambda s: (tried.losses[s], s))
    with Journal(pair.target) as journal:
        name, delta = next(iter(deltas.items()))
        journal.write(name, before[name] + 0.2 * delta)
        now = answer_loss(pair.target, {}, 0.0, data, spread(6, 4))
        journal.rollback()
    assert now == pytest.approx(tried.losses[0.2], rel=1e-5)


def test_no_change_is_an_admissible_choice_and_said_so():
    pair = ModelPair(tiny_loaded("llama", seed=1, **SIZES), tiny_loaded("llama", seed=1, **SIZES))
    _, injection = whole(pair, torch.eye(32, dtype=torch.float64), modules=["v"], strength=0)
    assert injection.diagnostics["strength"] == 0 and injection.diagnostics["unchanged"]
    _, injection = transplant(
        pair,
        stated(pair, dict.fromkeys(range(3), torch.eye(32).double()), layer_map(pair, 0, 1, 2)),
        strength="auto",
        dev_rows=3,
    )
    losses = injection.diagnostics["dev_loss"]
    assert injection.diagnostics["chosen_on"] == "3 dev rows"
    assert list(losses) == ["0", "0.05", "0.1", "0.2", "0.5", "1"]
    assert torch.allclose(torch.tensor(list(losses.values())), torch.tensor(losses["0"]), atol=1e-5)


def test_ties_take_the_smallest_strength():
    pair = twins("llama")
    data = data_for(Probe(pair, word_task()))
    name = "model.layers.0.mlp.up_proj.weight"
    assert search(pair.target, {name: torch.zeros(48, 32)}, data, rows=2).strength == 0.0


def test_semantic_maps_serve_and_their_length_is_set_to_the_targets():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    links = layer_map(pair, 0, 1, 3)
    options = SemanticOptions(map="lens", interface=Interface.RESIDUAL)
    alignment = SemanticAligner(options).align(pair, links, probe)
    found = alignment.target_states.maps[1]
    made = [
        changes({1: attrs.evolve(found, matrix=found.matrix * scale)}, links, probe, ridge=1e-2)[1]
        for scale in (1.0, 50.0)
    ]
    assert torch.allclose(made[0].write, made[1].write, rtol=1e-8)
    assert torch.allclose(made[0].read, made[1].read, rtol=1e-6)
    states = probe.states("align", [1]).read(range(6))[1].double()
    own = probe.states("align", [1], origin=Origin.TARGET).read(range(6))[1].double()
    mapped = states @ made[0].write.T
    assert float(mapped.square().sum(1).mean()) == pytest.approx(
        float(own.square().sum(1).mean()), rel=1e-4
    )
    _, injection = transplant(pair, alignment, ridge=1e-2)
    assert injection.diagnostics["blocks"] == [0, 1, 2]


@given(
    rows=st.integers(2, 6),
    columns=st.integers(2, 6),
    seed=st.integers(0, 999),
)
@settings(max_examples=25, deadline=None)
def test_the_ridge_inverse_is_the_minimiser_and_without_ridge_the_pseudo_inverse(
    rows, columns, seed
):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    assert torch.allclose(ridge_inverse(matrix, 0.0), torch.linalg.pinv(matrix), atol=1e-8)
    rank = min(rows, columns)
    damping = 0.3 * float(matrix.square().sum()) / rank
    eye = torch.eye(rows, dtype=torch.float64)
    wanted = matrix.T @ torch.linalg.inv(matrix @ matrix.T + damping * eye)
    assert torch.allclose(ridge_inverse(matrix, 0.3), wanted, atol=1e-9)


def test_the_way_back_carries_centre_and_offset():
    """Mapped states with a large common part lead back to the source's, constant included."""
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(500, 5, generator=generator).double() * 0.05 + 2.0
    matrix = rotation(5)
    found = AffineMap(matrix, centre=torch.full((5,), 1.0), offset=torch.linspace(1, 3, 5))
    mapped = found(h)
    second, mean = mapped.T @ mapped / 500, mapped.mean(dim=0)
    back = linear_inverse(found, second, mean, 0.0)
    assert float((mapped @ back.T - h).abs().max()) < 0.2
    assert float((mapped @ matrix - h).abs().min()) > 0.1  # without the constant
    plain = AffineMap(matrix)
    assert torch.equal(linear_inverse(plain, second, mean, 0.0), ridge_inverse(matrix, 0.0))


def test_between_norms_follows_what_each_side_can_see():
    matrix = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    x = torch.randn(3, generator=torch.Generator().manual_seed(2)).double()
    deviation = x - x.mean()
    wanted = matrix @ deviation
    both = between_norms(matrix, source_centres=True, target_centres=True)
    assert torch.allclose(both @ deviation, wanted - wanted.mean())
    ours = between_norms(matrix, source_centres=True, target_centres=False)
    assert torch.allclose(ours @ x, matrix @ x - (matrix @ x).mean())
    assert torch.equal(between_norms(matrix, source_centres=False, target_centres=True), matrix)
    eye = torch.eye(4, dtype=torch.float64)
    assert torch.allclose(between_norms(eye, source_centres=True, target_centres=True), eye)


def test_lengths_are_those_the_norms_divide_by():
    states = torch.tensor([[3.0, 4.0, 0.0, -1.0]]).double()
    llama, gpt2 = tiny_loaded("llama").anatomy, tiny_loaded("gpt2").anatomy
    assert float(length(states, llama)) == pytest.approx((26 / 4) ** 0.5)
    assert float(length(states, gpt2)) == pytest.approx((26 / 4 - 1.5**2) ** 0.5)


def test_truncation_is_the_best_of_its_rank_and_hidden_coordinates_are_left_out():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    assert torch.allclose(truncated(matrix, 2), torch.diag(torch.tensor([3.0, 2.0, 0.0])).double())
    assert truncated(matrix, None) is matrix and truncated(matrix, 3) is matrix
    assert reciprocal(torch.tensor([2.0, 0.0, -4.0])).tolist() == [0.5, 0.0, -0.25]


def test_what_cannot_be_transplanted_is_refused_and_the_target_untouched():
    pair = twins("llama")
    links, eye = layer_map(pair, 0, 1, 2), torch.eye(32, dtype=torch.float64)
    maps = dict.fromkeys(range(3), eye)
    nan = eye.clone()
    nan[3, 3] = float("nan")
    whole = stated(pair, maps, links)
    contribution = stated(pair, maps, links, interface=Interface.CONTRIBUTION)
    before = snapshot(pair.target)
    for alignment, options, error, message in (
        (Alignment("none", links), {}, StrategyError, "aligner 'none' gave none"),
        (stated(pair, {0: identity}, links), {}, StrategyError, "'identity'"),
        (contribution, {}, UsageError, "residual"),
        (stated(pair, maps, links, space=Space.ORIGIN), {}, UsageError, "origin space"),
        (stated(pair, maps, links, origin=Origin.TARGET), {}, UsageError, "itself"),
        (stated(pair, maps, links, shuffle_items=True), {}, UsageError, "other items"),
        (whole, {"rank": 17}, UsageError, r"rank 17.*16 × 32.*'k'.*16"),
        (stated(pair, {2: eye}, layer_map(pair, 0)), {}, UsageError, "nothing to rewrite"),
        (stated(pair, {0: eye, 1: nan}, links), {}, NonFiniteError, "block 1"),
    ):
        with pytest.raises(error, match=message):
            transplant(pair, alignment, **options)
        assert same_bits(pair.target, before), message


def test_a_source_that_is_not_finite_is_refused_and_the_target_untouched():
    pair = twins("llama")
    links = layer_map(pair, 0, 1, 2)
    alignment = stated(pair, dict.fromkeys(range(3), torch.eye(32).double()), links)
    pair.source.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    before = snapshot(pair.target)
    with pytest.raises(NonFiniteError, match="not finite"):
        transplant(pair, alignment)
    assert same_bits(pair.target, before)


def test_overflow_on_dev_is_an_error_that_names_the_strength():
    pair = twins("llama")
    data = data_for(Probe(pair, word_task()))
    name = "model.layers.2.mlp.down_proj.weight"
    with pytest.raises(NonFiniteError, match=r"at strength 0\.\d"):
        search(pair.target, {name: torch.full((32, 48), 3e38)}, data, rows=2)


@pytest.mark.parametrize("families", [("llama", "llama"), ("gpt_neox", "opt")])
def test_other_tokenizers_and_bf16_are_no_obstacle(families):
    """No position of one model is compared with one of the other."""
    pair = pair_of(*families, source={"vocab": 57}, target={"vocab": 61})
    assert not pair.tokenizers.same
    for each in (pair.source, pair.target):
        each.model.to(torch.bfloat16)
    matrix = torch.randn(32, 48, generator=torch.Generator().manual_seed(3)).double() / 7
    alignment = stated(pair, {0: matrix, 1: matrix}, layer_map(pair, 1, 3))
    modules = ["q", "k", "v", "o"] if "opt" in families else list(PROJECTIONS)
    _, injection = transplant(pair, alignment, strength="auto", modules=modules, rank=8)
    assert injection.diagnostics["chosen_on"] == "6 dev rows"
    assert injection.diagnostics["strength"] in GRID
    assert logits(pair.target).isfinite().all()


@pytest.mark.parametrize(
    ("families", "what"),
    [
        (("llama", "qwen3"), "only the target normalises queries"),
        (("gemma2", "gemma"), "only the source normalises what attention writes"),
        (("llama", "gpt2"), "only the source gates"),
        (("llama", "gemma"), "silu and gelu"),
    ],
)
def test_mechanisms_that_differ_are_named_with_the_modules_that_remain(families, what):
    pair = pair_of(*families)
    matrix = torch.randn(32, 48).double()
    maps = stated(pair, {0: matrix}, layer_map(pair, 0))
    before = snapshot(pair.target)
    with pytest.raises(PairIncompatibleError, match=what) as caught:
        transplant(pair, maps)
    assert same_bits(pair.target, before)
    rest = str(caught.value).split("injector.modules=")[1].rstrip(".").split(",")
    assert rest and set(rest) < set(PROJECTIONS)
    transplant(pair, maps, modules=rest)


@pytest.mark.parametrize("value", [-0.1, 1.5, "best"])
def test_strengths_outside_the_range_are_refused_with_the_value(value):
    with pytest.raises(UsageError, match=str(value)):
        build_options(TransplantOptions, {"strength": value}, "injector")
    assert build_options(TransplantOptions, {"strength": "auto"}, "x").strength == "auto"
    assert build_options(TransplantOptions, {"strength": "5e-1"}, "x").strength == 0.5


def test_the_strategy_names_registered_components():
    import pktkit_latent
    import pktkit_transplant

    (injector,) = pktkit_transplant.pktkit_knowledge_injectors()
    (strategy,) = pktkit_transplant.pktkit_strategies()
    assert injector.load() is Transplant and strategy.load() is TRANSPLANT
    assert TRANSPLANT.injector.name == injector.name
    aligners = {each.name: each for each in pktkit_latent.pktkit_latent_aligners()}
    options = aligners[TRANSPLANT.aligner.name].load().Options
    assert build_options(options, TRANSPLANT.aligner.options, "aligner").interface == "residual"
    assert isinstance(Change(torch.eye(1), torch.eye(1), 1.0).ratio, float)

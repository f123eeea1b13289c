"""The naive baseline: truncation copies what it says, overwriting writes what it is given."""

from __future__ import annotations

import pytest
import torch
from tiny_transfers import (
    SOURCE,
    TARGET,
    data_for,
    layer_map,
    pair_of,
    same_bits,
    snapshot,
    tree,
    word_task,
)

import pktkit_naive
from pktkit.errors import JournalError, PairIncompatibleError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.pair import save_model
from pktkit.probe import Probe
from pktkit.slicing import NormSlicer, rotary_channels, rotary_placement
from pktkit.testing import tiny_loaded
from pktkit.updates import DenseUpdate
from pktkit.values import Alignment, LayerLink, LayerMap
from pktkit_naive.aligner import (
    SliceByNorm,
    SliceOptions,
    TaskVector,
    TaskVectorOptions,
    Truncate,
    TruncateOptions,
)
from pktkit_naive.injector import (
    Interpolate,
    InterpolateOptions,
    Overwrite,
    OverwriteOptions,
    blended,
)
from pktkit_naive.strategies import NAIVE

FAMILIES = ("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "opt", "phi")
HEADED = {"q": 0, "k": 0, "v": 0, "o": 1}


def truncated(pair, *sources):
    return Truncate(TruncateOptions()).align(pair, layer_map(pair, *sources), None)


def overwrite(pair, alignment, strength=1.0):
    with Journal(pair.target) as journal:
        injection = Overwrite(OverwriteOptions(strength)).inject(
            pair.target, alignment, data_for(Probe(pair, word_task())), journal
        )
    return journal, injection


def by_head(matrix, name, anatomy):
    """Split the heads of a projection by hand."""
    if name not in HEADED:
        return [matrix]
    if HEADED[name]:
        matrix = matrix.T
    heads = matrix.split(anatomy.head_dim, dim=0)
    return [head.T if HEADED[name] else head for head in heads]


@pytest.mark.parametrize("family", FAMILIES)
def test_overwritten_entries_equal_the_sources_and_the_rest_is_unchanged(family):
    pair = pair_of(family, source={"ffn": 40, "kv_heads": 3})
    source, target = pair.source, pair.target
    before, source_before, shape = snapshot(target), snapshot(source), tree(target)
    alignment = truncated(pair, 3, 1)
    journal, injection = overwrite(pair, alignment)
    assert same_bits(source, source_before) and tree(target) == shape
    assert injection.diagnostics["parameters_written"] == len(alignment.dense)
    changed = 0
    for block, source_block in ((0, 3), (1, 1)):
        ours = source.anatomy.projections(source_block)
        for name, projection in target.anatomy.projections(block).items():
            new = by_head(projection.read(target.model), name, target.anatomy)
            given = by_head(ours[name].read(source.model), name, source.anatomy)
            for index, (now, value) in enumerate(zip(new, given, strict=False)):
                rows, columns = (min(a, b) for a, b in zip(now.shape, value.shape, strict=True))
                assert torch.equal(now[:rows, :columns], value[:rows, :columns]), (name, index)
                changed += rows * columns
            if projection.bias is not None:
                bias, theirs = (
                    projection.read_bias(target.model),
                    ours[name].read_bias(source.model),
                )
                width = min(len(bias), target.anatomy.head_dim, source.anatomy.head_dim)
                assert torch.equal(bias[:width], theirs[:width])
    if family != "gpt2":
        up = target.anatomy.projections(0)["up"]
        old = before[up.parameter]
        assert torch.equal(up.read(target.model)[40:], old[40:])
    for name in target.anatomy.block_parameters(2):
        assert torch.equal(dict(target.model.named_parameters())[name], before[name])
    assert alignment.diagnostics["copied_entries"] > changed
    now = snapshot(target)
    differing = sum(int((now[name] != before[name]).sum()) for name in before)
    assert changed < differing <= alignment.diagnostics["copied_entries"]
    assert set(journal.changed()) <= {update.parameter for update in alignment.dense}


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_embedding_and_head_come_from_the_source(family):
    pair = pair_of(family)
    source, target = pair.source.anatomy, pair.target.anatomy
    overwrite(pair, truncated(pair, 0, 1, 2))
    assert torch.equal(target.embedding.weight, source.embedding.weight[:, :32])
    assert torch.equal(target.head_weight, source.head_weight[:, :32])
    assert torch.equal(target.final_norm_gain(), source.final_norm_gain()[:32])
    ours, theirs = source.norms(1), target.norms(1)
    assert theirs
    for key, name in theirs.items():
        new = pair.target.model.get_parameter(name)
        assert torch.equal(new, pair.source.model.get_parameter(ours[key])[: len(new)])


def test_tied_target_takes_the_embedding_of_an_untied_source():
    pair = pair_of("llama", source={"tied": False}, target={"tied": True})
    alignment = truncated(pair, 0)
    assert "lm_head.weight" not in {update.parameter for update in alignment.dense}
    overwrite(pair, alignment)
    assert torch.equal(
        pair.target.anatomy.head_weight, pair.source.anatomy.embedding.weight[:, :32]
    )


def test_gains_are_converted_between_families():
    pair = pair_of("gemma", "llama", target={"tied": True})
    overwrite(pair, truncated(pair, 0))
    assert torch.allclose(
        pair.target.anatomy.final_norm_gain(), pair.source.anatomy.final_norm_gain()[:32]
    )


def test_the_source_block_of_largest_weight_is_copied():
    pair = pair_of("llama")
    blended_map = LayerMap(
        links=[LayerLink(1, (0, 2), (0.4, 0.6))], source_blocks=4, target_blocks=3, method="given"
    )
    overwrite(pair, Truncate(TruncateOptions()).align(pair, blended_map, None))
    assert torch.equal(
        pair.target.anatomy.projections(1)["up"].read(pair.target.model),
        pair.source.anatomy.projections(2)["up"].read(pair.source.model)[:48, :32],
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma"])
def test_strength_zero_is_the_identity_and_one_half_the_mean(family):
    pair = pair_of(family)
    before = snapshot(pair.target)
    alignment = truncated(pair, 0, 1, 3)
    journal, _ = overwrite(pair, alignment, strength=0.0)
    assert same_bits(pair.target, before) and journal.changed() == ()
    overwrite(pair, alignment, strength=0.5)
    now = dict(pair.target.model.named_parameters())
    for update in alignment.dense:
        mean = 0.5 * (before[update.parameter] + update.value)
        assert torch.allclose(now[update.parameter], mean, atol=1e-6)


def test_blending_keeps_the_bits_of_equal_entries_and_checks_shapes():
    old = torch.tensor([0.1, -0.0, 3.0, 1e-30])
    mixed = blended(old, torch.tensor([0.1, 0.0, 5.0, 1e-30]), 0.3)
    assert torch.equal(mixed[[0, 3]], old[[0, 3]])
    assert torch.signbit(mixed[1]) and mixed[2] == pytest.approx(3.6)
    with pytest.raises(UsageError, match=r"\(2,\).*\(4,\)"):
        blended(old, torch.zeros(2), 1.0)


def test_updates_that_cannot_be_written_are_refused():
    pair = pair_of("llama")
    before = snapshot(pair.target)
    links = layer_map(pair, 0)
    with pytest.raises(UsageError, match="dense updates"):
        overwrite(pair, Alignment("none", links))
    stray = DenseUpdate("model.norm.wait", torch.ones(32))
    with pytest.raises(JournalError, match=r"model\.norm\.weight"):
        overwrite(pair, Alignment("bad", links, dense=[stray]))
    nan = [
        DenseUpdate("model.norm.weight", torch.ones(32)),
        DenseUpdate("lm_head.weight", torch.full((61, 32), float("nan"))),
    ]
    with pytest.raises(JournalError, match="not finite"):
        overwrite(pair, Alignment("bad", links, dense=nan))
    assert same_bits(pair.target, before)
    with pytest.raises(UsageError):
        build_options(OverwriteOptions, {"strength": 1.5}, "injector")


def sliced(pair, *sources):
    return SliceByNorm(SliceOptions()).align(pair, layer_map(pair, *sources), None)


def interpolate(pair, alignment, alpha):
    options = build_options(InterpolateOptions, {"alpha": alpha}, "injector")
    with Journal(pair.target) as journal:
        injection = Interpolate(options).inject(
            pair.target, alignment, data_for(Probe(pair, word_task())), journal
        )
    return journal, injection


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma"])
@pytest.mark.parametrize("aligner", [truncated, sliced])
def test_interpolation_runs_from_the_target_to_overwriting(family, aligner):
    pair = pair_of(family, target={"ffn": 80})
    before = snapshot(pair.target)
    alignment = aligner(pair, 0, 1, 3)
    journal, injection = interpolate(pair, alignment, 0.0)
    assert same_bits(pair.target, before) and journal.changed() == ()
    assert injection.method == "interpolate" and injection.diagnostics["alpha"] == 0
    whole, _ = overwrite(pair, alignment)
    overwritten = snapshot(pair.target)
    whole.rollback()
    quarter, _ = interpolate(pair, alignment, 0.25)
    for name, now in snapshot(pair.target).items():
        wanted = 0.75 * before[name] + 0.25 * overwritten[name]
        assert torch.allclose(now, wanted, atol=1e-6)
        assert torch.equal(
            now[before[name] == overwritten[name]], before[name][before[name] == overwritten[name]]
        )
    quarter.rollback()
    interpolate(pair, alignment, 1.0)
    assert same_bits(pair.target, overwritten)


@pytest.mark.parametrize("alpha", [-0.25, 1.5])
def test_shares_outside_the_range_are_refused_with_the_value(alpha):
    with pytest.raises(UsageError, match=f"alpha.*{alpha}"):
        build_options(InterpolateOptions, {"alpha": alpha}, "injector")
    with pytest.raises(UsageError, match="alpha must be a number"):
        build_options(InterpolateOptions, {"alpha": float("nan")}, "injector")


def test_interpolation_in_bf16_is_computed_before_the_cast():
    pair = pair_of("llama")
    for model in (pair.source.model, pair.target.model):
        model.to(torch.bfloat16)
    before = snapshot(pair.target)
    alignment = truncated(pair, 0, 1, 3)
    interpolate(pair, alignment, 0.3)
    name = "model.layers.1.mlp.up_proj.weight"
    (update,) = [each for each in alignment.dense if each.parameter == name]
    wanted = before[name].float().lerp(update.value.float(), 0.3).bfloat16()
    assert torch.equal(snapshot(pair.target)[name], wanted)


def planted(pair, scale=10.0):
    """Make known parts of a source loud; return them: coordinates, key heads, neurons."""
    anatomy = pair.source.anatomy
    generator = torch.Generator().manual_seed(7)

    def draw(size, count):
        return torch.randperm(size, generator=generator)[:count].sort().values

    coordinates = draw(anatomy.width, pair.target.anatomy.width)
    keys = draw(anatomy.n_kv_heads, pair.target.anatomy.n_kv_heads)
    neurons = draw(anatomy.ffn_width, pair.target.anatomy.ffn_width)
    with torch.no_grad():
        anatomy.embedding.weight[:, coordinates] *= scale
        for block in range(anatomy.n_blocks):
            parts = anatomy.projections(block)
            rows = (keys[:, None] * anatomy.head_dim + torch.arange(anatomy.head_dim)).flatten()
            for name, index in (("k", rows), ("v", rows), ("up", neurons)):
                value = parts[name].read(anatomy.model)
                value[index] *= scale
                anatomy.model.get_parameter(parts[name].parameter).copy_(
                    parts[name].compose(anatomy.model, value)
                )
    return coordinates, keys, neurons


@pytest.mark.parametrize("family", FAMILIES)
def test_slicing_keeps_the_loudest_parts_together(family):
    pair = pair_of(family)
    source, target = pair.source.anatomy, pair.target.anatomy
    coordinates, keys, neurons = planted(pair)
    before = snapshot(pair.target)
    alignment = sliced(pair, 0, 1, 3)
    assert alignment.diagnostics["kept_coordinates"] == coordinates.tolist()
    overwrite(pair, alignment)
    assert not same_bits(pair.target, before)
    assert torch.equal(target.embedding.weight, source.embedding.weight[:, coordinates])
    assert torch.equal(target.final_norm_gain(), source.final_norm_gain()[coordinates])
    for block, source_block in ((1, 1), (2, 3)):
        ours, theirs = source.projections(source_block), target.projections(block)
        given = {name: ours[name].read(source.model) for name in ours}
        new = {name: theirs[name].read(target.model) for name in theirs}
        assert torch.equal(new["up"], given["up"][neurons][:, coordinates])
        assert torch.equal(new["down"], given["down"][coordinates][:, neurons])
        if theirs["up"].bias is not None:
            assert torch.equal(
                theirs["up"].read_bias(target.model), ours["up"].read_bias(source.model)[neurons]
            )
        if source.head_dim == target.head_dim:
            heads = given["v"].unflatten(0, (-1, source.head_dim))[keys][..., coordinates]
            assert torch.equal(new["v"], heads.flatten(0, 1))
        for key, name in target.norms(block).items():
            if key == "attention":
                gain = source.model.get_parameter(source.norms(source_block)[key])
                assert torch.equal(pair.target.model.get_parameter(name), gain[coordinates])


def test_query_heads_stay_with_the_key_head_they_read():
    """Six queries in three groups of two become four in two: whole groups, loudest first."""
    pair = pair_of("llama")
    source = pair.source.anatomy
    with torch.no_grad():
        for name, row in (("q_proj", 8), ("q_proj", 44)):  # heads 1 and 5, groups 0 and 2
            getattr(pair.source.model.model.layers[0].self_attn, name).weight[row] += 50
    placed = NormSlicer(source, pair.target.anatomy).block(0)
    heads = placed.q.source.unflatten(0, (4, 8))[:, 0] // 8
    assert heads.tolist() == [0, 1, 4, 5]
    assert (placed.k.source.unflatten(0, (2, 8))[:, 0] // 8).tolist() == [0, 2]
    assert torch.equal(placed.o.target, torch.arange(32))


def test_more_key_heads_in_the_target_split_groups_and_copy_their_key():
    pair = pair_of("llama", target={"heads": 6, "kv_heads": 6, "width": 48})
    placed = NormSlicer(pair.source.anatomy, pair.target.anatomy).block(0)
    queries = placed.q.source.unflatten(0, (6, 8))[:, 0] // 8
    keys = placed.k.source.unflatten(0, (6, 8))[:, 0] // 8
    assert sorted(queries.tolist()) == list(range(6))
    assert keys.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(queries // 2, keys)


@pytest.mark.parametrize(("family", "rotated"), [("llama", 16), ("gpt_neox", 4), ("gpt2", 0)])
def test_rotary_partners_stay_partners(family, rotated):
    source = tiny_loaded(family, width=64, heads=4, kv_heads=4, seed=1).anatomy
    target = tiny_loaded(family, width=32, heads=4, kv_heads=4, seed=2).anatomy
    assert rotary_channels(source) == rotated and source.head_dim == 2 * target.head_dim == 16
    scores = torch.rand(16, generator=torch.Generator().manual_seed(5)).double()
    placed = rotary_placement(scores, source, target)
    assert sorted(placed.target.tolist()) == list(range(8))
    where = dict(zip(placed.target.tolist(), placed.source.tolist(), strict=True))
    half = rotary_channels(target) // 2
    for channel in range(half):
        assert where[channel + half] == where[channel] + rotated // 2
    plain = [where[c] for c in range(2 * half, 8)]
    assert plain == sorted(plain) and all(c >= rotated for c in plain)
    if half:
        pairs = scores[: rotated // 2] + scores[rotated // 2 : rotated]
        assert {where[c] for c in range(half)} == set(pairs.topk(half).indices.tolist())


def test_slicing_a_model_into_its_own_shape_is_overwriting():
    pair = pair_of("qwen3", source=TARGET, target=TARGET)
    overwrite(pair, sliced(pair, 0, 1, 2))
    assert same_bits(pair.target, snapshot(pair.source))


def saved(handle, directory):
    return str(save_model(handle, directory))


def task_vector(pair, base):
    options = build_options(TaskVectorOptions, {"base": base}, "aligner")
    return TaskVector(options).align(pair, layer_map(pair, 0, 1, 3), None)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_task_vector_adds_what_training_changed(family, tmp_path):
    pair = pair_of(family)
    base = saved(pair.source, tmp_path / "base")
    before = snapshot(pair.target)
    alignment = task_vector(pair, base)
    assert alignment.diagnostics["moved_entries"] == 0
    interpolate(pair, alignment, 1.0)
    assert same_bits(pair.target, before)
    up = pair.source.anatomy.projections(1)["up"]
    change = torch.randn(72, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        parameter = pair.source.model.get_parameter(up.parameter)
        parameter.copy_(up.compose(pair.source.model, up.read(pair.source.model) + change))
    alignment = task_vector(pair, base)
    assert alignment.diagnostics["moved_entries"] == 48 * 32
    journal, _ = interpolate(pair, alignment, 0.5)
    theirs = pair.target.anatomy.projections(1)["up"]
    assert journal.changed() == (theirs.parameter,)
    wanted = before[theirs.parameter].T if theirs.transposed else before[theirs.parameter]
    assert torch.allclose(
        theirs.read(pair.target.model), wanted + 0.5 * change[:48, :32], atol=1e-5
    )


def test_a_task_vector_needs_the_base_the_source_came_from(tmp_path):
    pair = pair_of("llama")
    before = snapshot(pair.target)
    with pytest.raises(UsageError, match=r"--set aligner\.base="):
        task_vector(pair, None)
    other = saved(tiny_loaded("llama", **(SOURCE | {"ffn": 64})), tmp_path / "other")
    with pytest.raises(PairIncompatibleError, match=r"\(48, 72\).*\(48, 64\)"):
        task_vector(pair, other)
    shallow = saved(tiny_loaded("llama", **(SOURCE | {"blocks": 3})), tmp_path / "shallow")
    with pytest.raises(PairIncompatibleError, match=r"layers\.3.*absent in the base"):
        task_vector(pair, shallow)
    with pytest.raises(UsageError, match="nowhere"):
        task_vector(pair, str(tmp_path / "nowhere"))
    assert same_bits(pair.target, before)


def test_plugin_registers_what_the_strategies_name():
    aligners = {each.name: each for each in pktkit_naive.pktkit_latent_aligners()}
    injectors = {each.name: each for each in pktkit_naive.pktkit_knowledge_injectors()}
    strategies = {each.name: each.load() for each in pktkit_naive.pktkit_strategies()}
    assert strategies["naive"] is NAIVE and NAIVE.matcher.name == "depth"
    assert (NAIVE.aligner.name, NAIVE.injector.name) == ("truncate", "overwrite")
    assert aligners["truncate"].load() is Truncate and injectors["overwrite"].load() is Overwrite
    for name, strategy in strategies.items():
        assert strategy.name == name and strategy.role == "method"
        aligner = aligners[strategy.aligner.name].load()
        injector = injectors[strategy.injector.name].load()
        build_options(aligner.Options, strategy.aligner.options, "aligner")
        build_options(injector.Options, strategy.injector.options, "injector")

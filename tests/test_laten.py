"""Aligning and adding: a frozen target, the published schedule, and changes that are saved."""

from __future__ import annotations

import json
import random

import attrs
import pytest
import torch
from click.testing import CliRunner
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
from torch.func import functional_call

from pktkit.activations.recording import record
from pktkit.cli import main
from pktkit.encoding import EncodedSplit, collate
from pktkit.errors import NonFiniteError, StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.pair import LoadedModel, ModelPair
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded
from pktkit.updates import SparseUpdate
from pktkit.values import Alignment, LayerMap
from pktkit_laten.aligner import Hypernetwork, HypernetworkOptions, _Alignment
from pktkit_laten.functional import injected
from pktkit_laten.hypernetwork import build, deltas, schedule
from pktkit_laten.injector import AddOnce, AddOnceOptions
from pktkit_laten.neurons import AXES, HALVES, source_vectors, updates
from pktkit_laten.strategies import LATEN, LATEN_RELEASED

FAST = {"examples": 3, "align_rows": 2, "init_std": 0.05, "learning_rate": 1e-3}
LINKS = (0, 2, 3)


def empty_map(pair):
    return LayerMap((), pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks, "none")


def aligned(pair, probe, **options):
    return Hypernetwork(HypernetworkOptions(**(FAST | options))).align(
        pair, layer_map(pair, *LINKS), probe
    )


def run_of(pair, **options):
    probe = Probe(pair, word_task())
    return _Alignment(pair, layer_map(pair, *LINKS), probe, HypernetworkOptions(**(FAST | options)))


def random_updates(anatomy, scale=0.3, block=1):
    """Updates of all projections that neurons live in, and of q, with a repeated index each."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for name, axis in (AXES | {"q": 0}).items():
        shape = anatomy.projections(block)[name].read(anatomy.model).shape
        index = torch.tensor([3, 0, 3, shape[axis] - 1])
        values = scale * torch.randn(4, shape[1 - axis], generator=generator)
        found.append(SparseUpdate(block, name, axis, index, values))
    return found


def write(model, changes):
    """Write `W + Δ` into a model, projection by projection."""
    for change in changes:
        projection = model.anatomy.projections(change.block)[change.projection]
        summed = change.added_to(projection.read(model.model))
        with torch.no_grad():
            model.model.get_parameter(projection.parameter).copy_(
                projection.compose(model.model, summed)
            )


# --- sparse updates and functional injection -----------------------------------------------


def test_a_sparse_update_by_hand():
    matrix = torch.zeros(2, 3, dtype=torch.bfloat16)
    rows = SparseUpdate(0, "v", 0, torch.tensor([1, 1]), torch.tensor([[1.0, 2, 3], [10, 20, 30]]))
    assert rows.added_to(matrix).tolist() == [[0, 0, 0], [11, 22, 33]]
    columns = SparseUpdate(0, "o", 1, torch.tensor([2, 0]), torch.tensor([[1.0, 2], [3, 4]]))
    assert columns.added_to(matrix).tolist() == [[3, 0, 1], [4, 0, 2]]
    assert rows.added_to(matrix).dtype == torch.float32
    for wrong in (
        attrs.evolve(rows, values=torch.ones(2, 2)),
        attrs.evolve(rows, indices=torch.tensor([0, 2])),
        attrs.evolve(columns, indices=torch.tensor([-1, 0])),
    ):
        with pytest.raises(UsageError, match="expected"):
            wrong.added_to(matrix)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox", "opt", "phi"])
def test_functional_injection_equals_writing_the_sum(family):
    model = tiny_loaded(family)
    before, modules, plain = snapshot(model), tree(model), logits(model)
    changes = random_updates(model.anatomy)
    with injected(model.anatomy, changes):
        felt = logits(model)
    assert same_bits(model, before) and tree(model) == modules
    assert torch.equal(logits(model), plain)
    write(model, changes)
    assert torch.allclose(felt, logits(model), atol=1e-5, rtol=1e-5)
    assert (felt - plain).abs().max() > 0.05


# --- the hypernetwork and its schedule -----------------------------------------------------


def test_schedule_of_twenty_steps():
    """As published: lr/25 at step 0, the peak at step 1, lr/25 at step 19; beta1 mirrored."""
    maps = build(("up",), 4, 3, std=1e-5, seed=0)
    optimiser, scheduler = schedule(maps, learning_rate=3e-5, weight_decay=0.05, steps=20)
    rates, betas = [], []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        betas.append(optimiser.param_groups[0]["betas"])
        optimiser.step()
        scheduler.step()
    assert rates[0] == pytest.approx(3e-5 / 25) == pytest.approx(rates[19])
    assert rates[1] == pytest.approx(3e-5)
    assert rates[10] == pytest.approx(3e-5 * 0.52)  # half way between 1 and 1/25
    assert rates[4] == pytest.approx(3e-5 * (0.52 + 0.48 * 3**0.5 / 2))  # a sixth of the way
    assert [b for b, _ in (betas[0], betas[1], betas[19])] == pytest.approx([0.95, 0.85, 0.95])
    assert betas[10][0] == pytest.approx(0.9) and betas[10][1] == 0.95
    assert optimiser.param_groups[0]["weight_decay"] == 0.05


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_short_schedules_stay_between_start_and_peak(steps):
    maps = build(("up",), 4, 3, std=1e-5, seed=0)
    optimiser, scheduler = schedule(maps, learning_rate=1.0, weight_decay=0.0, steps=steps)
    for _ in range(steps):
        assert 0.04 - 1e-9 <= optimiser.param_groups[0]["lr"] <= 1.0
        optimiser.step()
        scheduler.step()


def test_maps_are_small_gaussians_without_biases():
    state = torch.random.get_rng_state()
    maps = build(("up", "v"), 300, 200, std=1e-5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    shapes = [tuple(p.shape) for p in maps.parameters()]
    assert shapes == [(300, 300), (200, 300)] * 2
    for parameter in maps.parameters():
        assert float(parameter.detach().std()) == pytest.approx(1e-5, rel=0.03)
    again = build(("up", "v"), 300, 200, std=1e-5, seed=3)
    assert all(map(torch.equal, maps.parameters(), again.parameters()))
    assert not torch.equal(maps["up"][0].weight, maps["v"][0].weight)


def test_published_size_starts_as_no_change():
    """Gaussian neurons of deviation 0.02 at width 5120 give outputs of about 7e-9."""
    maps = build(("up",), 5120, 64, std=1e-5, seed=0)
    neurons = 0.02 * torch.randn(32, 5120, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert float(deltas(maps, {"up": neurons})["up"].std()) == pytest.approx(7.2e-9, rel=0.1)


# --- alignment -----------------------------------------------------------------------------

PAIRS = {
    "gqa": ("llama", "llama", {}),
    "biases": ("qwen2", "qwen2", {}),
    "tied heads of another size": ("gemma", "gemma", {}),
    "norms after the halves": ("gemma2", "gemma2", {}),
    "fused, transposed": ("gpt2", "gpt2", {}),
    "parallel": ("gpt_neox", "phi", {}),
    "gated to ungated": ("llama", "opt", {}),
    "ungated to gated": ("gpt2", "llama", {}),
    "deeper target": ("llama", "llama", {"target": {"blocks": 6}}),
    "wider target": ("llama", "llama", {"target": {"width": 64, "ffn": 100, "heads": 8}}),
}


@pytest.mark.parametrize("case", PAIRS)
def test_align_leaves_both_models_alone_and_add_once_changes_what_it_selected(case):
    family, target_family, sizes = PAIRS[case]
    pair = pair_of(family, target_family, **sizes)
    probe = Probe(pair, word_task())
    models = (pair.source, pair.target)
    before, trees = [snapshot(m) for m in models], [tree(m) for m in models]
    flags = [p.requires_grad for p in pair.target.model.parameters()]
    made = Hypernetwork(HypernetworkOptions(**FAST)).align(pair, empty_map(pair), probe)
    assert all(map(same_bits, models, before)) and [tree(m) for m in models] == trees
    assert [p.requires_grad for p in pair.target.model.parameters()] == flags
    assert all(p.grad is None for p in pair.target.model.parameters())
    assert made.diagnostics["steps"] == 3 and len(made.diagnostics["losses"]) == 3

    data = data_for(probe)
    with Journal(pair.target) as journal:
        done = AddOnce(AddOnceOptions()).inject(pair.target, made, data, journal)
        changed, delta = journal.changed(), journal.delta()
    row = random.Random(data.seed).choice(data.rows)
    assert done.diagnostics["item"] == probe.encoded("train").items[row].id
    assert done.diagnostics["changed_share"] == 1.0
    blocks = min(m.anatomy.n_blocks for m in models)
    fused = pair.target.anatomy.projections(0)["v"].fused
    assert len(changed) == 4 * blocks, "v and its fused neighbours share one parameter"
    ffn = min(int(0.1 * pair.target.anatomy.ffn_width), pair.source.anatomy.ffn_width)
    for block in range(pair.target.anatomy.n_blocks):
        projections = pair.target.anatomy.projections(block)
        for name in ("up", "down", "o", "v"):
            projection = projections[name]
            if projection.parameter not in delta:
                continue
            full = delta[projection.parameter]
            full = full.T if projection.transposed else full
            moved = (full != 0).any(dim=1 - AXES[name])
            if HALVES[name] == "ffn":
                assert int(moved.sum()) == ffn
            if name == "v" and fused:
                rows = torch.arange(len(full))[projection.rows]
                outside = torch.ones(len(full), dtype=torch.bool)
                outside[rows] = False
                assert not moved[outside].any(), "queries and keys keep their values"
    entries = sum(int((value != 0).sum()) for value in delta.values())
    assert entries == done.diagnostics["changed_entries"] == done.trainable_parameters


def test_the_last_token_of_each_models_own_encoding_when_tokenizers_differ():
    source = tiny_loaded("llama", seed=1, width=48, blocks=4, heads=6, kv_heads=3, vocab=70)
    target = tiny_loaded("llama", seed=2)
    pair = ModelPair(source, target)
    assert not pair.tokenizers.same
    made = aligned(pair, Probe(pair, word_task()))
    assert made.sparse_at is not None
    assert made.sparse_at(Probe(pair, word_task()).encoded("train").items[0])


def test_a_step_sums_the_gradients_of_its_rows():
    """The same gradient as dense `W + Δ` through `functional_call`, row by row, without a mean."""
    pair = pair_of("llama")
    run = run_of(pair, micro_batch=2)
    example = run.probe.encoded("extract").items[4]
    run._accumulate(1, example)
    found = [p.grad.clone() for p in run.maps.parameters()]

    target = pair.target
    run.maps.zero_grad()
    groups = run._locate(example, "extract", 0.1)
    made = deltas(run.maps, source_vectors(pair.source, groups, run.options.modules))
    values = dict(target.model.named_parameters())
    for change in updates(target.anatomy, groups, made):
        name = target.anatomy.projections(change.block)[change.projection].parameter
        values[name] = change.added_to(values[name].detach())
    for item in run._rows(1, example):
        batch = collate(EncodedSplit("one", (item,)), [0], pad_id=0)
        with record(target.anatomy, (), batch):
            output = functional_call(
                target.model, values, kwargs={"input_ids": batch.input_ids, "use_cache": False}
            )
        torch.nn.functional.cross_entropy(output.logits, batch.gold).backward(retain_graph=True)
    for parameter, gradient in zip(run.maps.parameters(), found, strict=True):
        assert gradient.abs().max() > 0
        assert torch.allclose(parameter.grad, gradient, rtol=1e-3, atol=1e-7)


def test_sixteen_rows_a_step_and_one_step_an_example():
    pair = pair_of("llama")
    probe = Probe(pair, word_task(rows=20))
    made = aligned(pair, probe, examples=5, align_rows=15, steps=2)
    per_row = len(probe.encoded("align").items[0].input_ids)
    assert made.diagnostics["steps"] == 2
    assert made.diagnostics["tokens"] == 2 * 16 * per_row
    whole = aligned(pair, probe, examples=0, align_rows=0)
    assert whole.diagnostics["steps"] == 20 and whole.diagnostics["tokens"] == 20 * per_row
    run = run_of(pair, align_rows=3)
    rows = [run._rows(step, run.probe.encoded("extract").items[0]) for step in (0, 1)]
    assert rows[0] != rows[1] and all(len({i.id for i in part[:3]}) == 3 for part in rows)


def test_seed_decides_and_micro_batches_do_not():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    item = probe.encoded("train").items[0]

    def values(**options):
        return torch.cat(
            [u.values.flatten() for u in aligned(pair, probe, **options).sparse_at(item)]
        )

    first = values(seed=1)
    assert torch.equal(first, values(seed=1))
    assert not torch.equal(first, values(seed=2))
    assert torch.allclose(first, values(seed=1, micro_batch=1), rtol=1e-2, atol=1e-5)


def test_learning_lowers_the_loss():
    pair = pair_of("llama")
    made = aligned(
        pair, Probe(pair, word_task()), examples=6, align_rows=5, learning_rate=2e-2, init_std=0.1
    )
    losses = made.diagnostics["losses"]
    assert losses[-1] < losses[0] - 0.1


def test_l2_adds_the_gradient_of_the_mean_square_of_the_deltas_per_row():
    pair = pair_of("llama")
    gradients = []
    for reg in ("none", "l2"):
        run = run_of(pair, reg=reg, align_rows=2)
        example = run.probe.encoded("extract").items[0]
        run._accumulate(0, example)
        gradients.append([p.grad.clone() for p in run.maps.parameters()])
    run.maps.zero_grad()
    groups = run._locate(example, "extract", 0.1)
    made = deltas(run.maps, source_vectors(pair.source, groups, run.options.modules))
    (3 * 1000 * sum(value.square().mean() for value in made.values())).backward()
    for parameter, without, held in zip(run.maps.parameters(), *gradients, strict=True):
        assert parameter.grad.abs().max() > 0
        assert torch.allclose(held - without, parameter.grad, rtol=1e-3, atol=1e-4)


def test_the_map_can_decide_the_layers():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    run = run_of(pair, layers="map", modules=("up", "o"))
    groups = run._locate(probe.encoded("train").items[0], "train", 0.5)
    expected = {(source, target) for target, source in enumerate(LINKS)}
    assert {(g.source_block, g.target_block) for g in groups} == expected
    assert {len(g.target) for g in groups} == {24, 16}
    with pytest.raises(UsageError, match="layers=map needs a matcher"):
        Hypernetwork(HypernetworkOptions(layers="map")).align(pair, empty_map(pair), probe)


def test_rates_when_training_and_when_used_may_differ():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    made = aligned(pair, probe, inference_rate=1.0, modules=("up",))
    found = made.sparse_at(probe.encoded("train").items[0])
    assert [len(update.indices) for update in found] == [48, 48, 48]
    with pytest.raises(UsageError, match=r"none of the 48 ffn neurons"):
        aligned(pair, probe, transfer_rate=0.01)


def test_a_loss_that_is_not_finite_names_step_and_items():
    pair = pair_of("llama")
    with pytest.raises(NonFiniteError, match=r"alignment step 1 is not finite, items i\d"):
        aligned(pair, Probe(pair, word_task()), init_std=1e18)


# --- injection -----------------------------------------------------------------------------


def test_add_once_refuses_what_it_cannot_use():
    pair = pair_of("llama")
    probe, before = Probe(pair, word_task()), snapshot(pair.target)
    data, given = data_for(probe), layer_map(pair, *LINKS)
    wrong = {
        "needs sparse updates": Alignment("other", given),
        "unknown projection": Alignment(
            "other", given, sparse=[SparseUpdate(0, "gat", 0, torch.tensor([0]), torch.ones(1, 32))]
        ),
        "expected": Alignment(
            "other", given, sparse=[SparseUpdate(0, "up", 0, torch.tensor([0]), torch.ones(1, 31))]
        ),
    }
    for message, alignment in wrong.items():
        with pytest.raises(UsageError, match=message), Journal(pair.target) as journal:
            AddOnce(AddOnceOptions()).inject(pair.target, alignment, data, journal)
    assert same_bits(pair.target, before)


def in_bf16(model: LoadedModel) -> LoadedModel:
    model.model.to(torch.bfloat16)
    return model


def test_an_update_lost_in_the_precision_of_the_weights_is_an_error():
    """What the public code ships: a saved model that is the untouched one."""
    pair = pair_of("llama")
    pair = attrs.evolve(pair, target=in_bf16(pair.target))
    probe, before = Probe(pair, word_task()), snapshot(pair.target)
    made = aligned(pair, probe, init_std=1e-5, learning_rate=1e-6)
    with pytest.raises(StrategyError, match=r"none of the \d+ selected weights changed"):  # noqa: SIM117
        with Journal(pair.target) as journal:
            AddOnce(AddOnceOptions()).inject(pair.target, made, data_for(probe), journal)
    assert same_bits(pair.target, before)


def test_sums_are_cast_once():
    """Two updates of one row that bf16 would lose one by one arrive together."""
    pair = pair_of("llama")
    target = in_bf16(pair.target)
    weight = target.model.get_parameter("model.layers.0.mlp.up_proj.weight")
    with torch.no_grad():
        weight[0] = 1.0
    quarter = SparseUpdate(0, "up", 0, torch.tensor([0]), torch.full((1, 32), 2**-9 + 2**-12))
    alignment = Alignment("other", layer_map(pair, *LINKS), sparse=[quarter, quarter])
    with Journal(target) as journal:
        done = AddOnce(AddOnceOptions()).inject(
            target, alignment, data_for(Probe(pair, word_task())), journal
        )
        assert journal.changed() == ("model.layers.0.mlp.up_proj.weight",)
    assert torch.equal(weight[0], torch.full((32,), 1 + 2**-7, dtype=torch.bfloat16))
    assert done.diagnostics["changed_share"] == 1.0
    assert done.diagnostics["selected_entries"] == 32


def test_the_row_comes_from_the_rows_of_the_run():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    asked = []

    def sparse_at(item):
        asked.append(item.id)
        return [SparseUpdate(0, "up", 0, torch.tensor([0]), torch.ones(1, 32))]

    alignment = Alignment("other", layer_map(pair, *LINKS), sparse_at=sparse_at)
    for seed in range(12):
        data = attrs.evolve(data_for(probe), rows=(1, 4), seed=seed)
        with Journal(pair.target) as journal:
            AddOnce(AddOnceOptions(strength=0.5)).inject(pair.target, alignment, data, journal)
            added = journal.delta()["model.layers.0.mlp.up_proj.weight"][0]
            assert torch.allclose(added, torch.full((32,), 0.5), atol=1e-6)
            journal.rollback()
    assert set(asked) == {"i1", "i4"}


# --- the strategy --------------------------------------------------------------------------


def test_strategies_are_registered():
    registry = Registry.discover()
    assert registry.strategy("laten") == LATEN
    assert registry.strategy("laten-released") == LATEN_RELEASED
    assert {LATEN.role, LATEN_RELEASED.role} == {"method"}


def test_what_transfer_saves_differs_where_it_says(tmp_path):
    from safetensors.torch import load_file

    from pktkit.zoo import pair_paths

    out = tmp_path / "model"
    result = CliRunner().invoke(
        main,
        ["transfer", "--strategy", "laten", "--out", str(out), "--set", "aligner.examples=3"],
    )
    assert result.exit_code == 0, result.output
    record = json.loads((out / "transfer.json").read_text())
    before = load_file(pair_paths()[1] / "model.safetensors")
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    differing = {n: before[n].float() != after[n].float() for n in before}
    changed = {name for name, entries in differing.items() if bool(entries.any())}
    assert changed == set(record["changed_parameters"]) != set()
    assert {name.split(".")[-2] for name in changed} == {"up_proj", "down_proj", "v_proj", "o_proj"}
    selected = {"up_proj": (12, 1), "down_proj": (12, 0), "v_proj": (6, 1), "o_proj": (6, 0)}
    for name in changed:
        count, across = selected[name.split(".")[-2]]
        touched = differing[name].any(dim=across)
        assert 1 <= int(touched.sum()) <= count, name
    diagnostics = record["injection"]["diagnostics"]
    entries = sum(int(d.sum()) for d in differing.values())
    assert entries == diagnostics["changed_entries"] <= diagnostics["selected_entries"]

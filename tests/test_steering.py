"""Readouts, schedules, weights of positions and choice of blocks in the steering injectors."""

from __future__ import annotations

import attrs
import pytest
import torch
from tiny_transfers import data_for, layer_map, pair_of, same_bits, snapshot, tree, word_task

from pktkit.encoding import collate
from pktkit.errors import StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options, describe_options
from pktkit.pair import load_model, save_model
from pktkit.probe import Probe
from pktkit.settings import ProbeSettings
from pktkit.state_maps import Readout, identity
from pktkit.tasks.base import SPLITS
from pktkit.values import Alignment, Interface, LayerLink, LayerMap, Origin, Space, TargetStates
from pktkit_latent.aligners.semantic import SemanticAligner, SemanticOptions
from pktkit_latent.confidence import CONFIDENCE, gold_confidence
from pktkit_latent.injectors import (
    AllBlocksInjector,
    AllBlocksOptions,
    FrontierInjector,
    FrontierOptions,
    OneBlockInjector,
    OneBlockOptions,
)
from pktkit_latent.schedules import LayerSchedule, Together
from pktkit_latent.steering_options import SteeringOptions
from pktkit_latent.wanted import Wanted

INJECTORS = {
    "one-block": (OneBlockInjector, OneBlockOptions),
    "frontier": (FrontierInjector, FrontierOptions),
    "all-blocks": (AllBlocksInjector, AllBlocksOptions),
}


def in_source_space(pair, *, readouts: bool, shuffled: bool = False) -> Alignment:
    """Source states as they are, with or without readouts of the target's."""
    links = layer_map(pair, 0, 1, 3)
    widths = pair.target.anatomy.width, pair.source.anatomy.width
    states = TargetStates(
        dict.fromkeys(range(3), identity),
        links,
        Interface.RESIDUAL,
        shuffle_items=shuffled,
        space=Space.ORIGIN,
        readouts=dict.fromkeys(range(3), Readout(*widths)) if readouts else {},
    )
    return Alignment("hint", links, target_states=states)


def semantic(pair, probe, *sources: int, **options) -> Alignment:
    links = layer_map(pair, *(sources or (0, 1, 3)))
    return SemanticAligner(SemanticOptions(**options)).align(pair, links, probe)


def run(injector, pair, alignment, data, *, keep: bool = False):
    """Inject; return the record and the parameters after, rolled back unless they are kept."""
    with Journal(pair.target) as journal:
        done = injector.inject(pair.target, alignment, data, journal)
        after = snapshot(pair.target)
        if not keep:
            journal.rollback()
    return done, after


# --- readouts


@pytest.mark.parametrize("name", INJECTORS)
def test_readouts_are_trained_counted_apart_and_gone_afterwards(name, tmp_path):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    before = tree(pair.target)
    kind, options = INJECTORS[name]
    injector = kind(options(layer_term="centred-cosine", layer_weight=5, train="full"))
    data = data_for(probe, steps=12, batch_size=6)
    done, after = run(injector, pair, in_source_space(pair, readouts=True), data, keep=True)
    blocks = 1 if name == "one-block" else 3
    assert done.diagnostics["readout_parameters"] == blocks * (32 * 48 + 48)
    whole = sum(p.numel() for p in pair.target.model.parameters())
    assert done.trainable_parameters <= whole
    assert tree(pair.target) == before
    save_model(pair.target, tmp_path / "saved")
    saved = load_model(str(tmp_path / "saved"))
    assert snapshot(saved).keys() == after.keys()
    assert same_bits(saved, after)


def test_a_readout_alone_can_lower_the_layer_term():
    """The target barely moves; its readouts learn at their own rate."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    alignment = in_source_space(pair, readouts=True)
    data = data_for(probe, steps=20, batch_size=6, learning_rate=1e-9, warmup=0.0)
    last = {}
    for rate in (1.0, 3e7):
        options = AllBlocksOptions(layer_weight=1.0, readout_rate=rate)
        done, _ = run(AllBlocksInjector(options), pair, alignment, data)
        last[rate] = done.losses["layer"]
    assert last[1.0][-1] == pytest.approx(last[1.0][0], abs=1e-3)
    assert last[3e7][-1] < 0.5 * last[3e7][0]


def test_readouts_do_not_change_what_the_output_alone_would_do():
    """Their gradients are clipped apart: with no layer weight in the end, only they differ."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    data = data_for(probe, steps=4)
    results = [
        run(AllBlocksInjector(AllBlocksOptions(layer_weight=0.0)), pair, alignment, data)[1]
        for alignment in (in_source_space(pair, readouts=True), semantic(pair, probe))
    ]
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_runs_with_readouts_repeat_exactly_and_depend_on_the_seed():
    pair = pair_of("qwen2")
    probe = Probe(pair, word_task())
    alignment, data = in_source_space(pair, readouts=True), data_for(probe)
    injector = AllBlocksInjector(AllBlocksOptions())
    first, again, other = (
        run(injector, pair, alignment, attrs.evolve(data, seed=seed))[0].losses["layer"]
        for seed in (5, 5, 6)
    )
    assert first == again and first != other


# --- states in another space


@pytest.mark.parametrize("term", ["relation", "cka"])
@pytest.mark.parametrize("name", INJECTORS)
def test_relations_are_compared_across_widths(name, term):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    kind, options = INJECTORS[name]
    injector = kind(options(layer_term=term, layer_weight=5, train="full", output="kl"))
    data = data_for(probe, steps=30, batch_size=6)
    done, _ = run(injector, pair, in_source_space(pair, readouts=False), data)
    layer = done.losses["layer"]
    assert all(0 < value < 5 for value in layer)
    if name != "frontier":  # whose terms belong to different blocks over time
        assert layer[-1] < layer[0]


@pytest.mark.parametrize("term", ["cosine", "centred-cosine", "mse", "fisher"])
def test_terms_of_one_space_are_refused_where_states_are_not(term):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    before = snapshot(pair.target)
    injector = AllBlocksInjector(AllBlocksOptions(layer_term=term))
    with pytest.raises(StrategyError, match=r"relation, cka"):
        run(injector, pair, in_source_space(pair, readouts=False), data_for(probe))
    assert same_bits(pair.target, before)


def test_fisher_is_refused_behind_a_readout():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    injector = FrontierInjector(FrontierOptions())
    with pytest.raises(StrategyError, match=r"LM head.*cosine, centred-cosine, mse, relation, cka"):
        run(injector, pair, in_source_space(pair, readouts=True), data_for(probe))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "phi"])
def test_fisher_runs_on_every_kind_of_head(family):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    injector = AllBlocksInjector(AllBlocksOptions(layer_term="fisher", layer_weight=1))
    done, _ = run(
        injector, pair, semantic(pair, probe, interface=Interface.RESIDUAL), data_for(probe)
    )
    assert all(0 < value < float("inf") for value in done.losses["layer"])


# --- prepared states


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("interface", list(Interface))
def test_prepared_states_are_those_read_step_by_step(shuffled, interface):
    """Interpolated links, items of unequal length, the shuffled placebo."""
    pair = pair_of("llama")
    items = word_task().items("train")
    longer = attrs.evolve(items[0], answer="t1 t2 t3 t4 t5 t6")
    task = attrs.evolve(word_task(), splits=dict.fromkeys(SPLITS, (longer, *items[1:])))
    probe = Probe(pair, task, settings=ProbeSettings(batch_size=2))
    links = LayerMap([LayerLink(0, (0, 1), (0.25, 0.75)), LayerLink(2, (3,))], 4, 3, "interpolated")
    options = SemanticOptions(interface=interface, placebo="shuffled-items" if shuffled else "none")
    states = SemanticAligner(options).align(pair, links, probe).target_states
    data = attrs.evolve(data_for(probe), rows=(5, 0, 2, 3))
    prepared = Wanted.open(states, data, torch.device("cpu"))
    assert prepared.prepared is not None
    live = attrs.evolve(prepared, prepared=None)
    batch = collate(probe.encoded("train"), [3, 0, 5], pad_id=0, device="cpu")
    kept = (~batch.ending).nonzero().squeeze(1)
    ours, theirs = (w.read(batch, (0, 2), kept) for w in (prepared, live))
    for block in (0, 2):
        assert ours[block].shape == (len(kept), 32)
        torch.testing.assert_close(ours[block], theirs[block])


@pytest.mark.parametrize("reason", ["too large", "more rows than the run sees"])
def test_what_does_not_pay_is_not_prepared(reason):
    pair = pair_of("llama")
    settings = ProbeSettings(max_bytes=0) if reason == "too large" else ProbeSettings()
    probe = Probe(pair, word_task(), settings=settings)
    steps = {"too large": 3, "more rows than the run sees": 2}[reason]
    data = data_for(probe, steps=steps)
    alignment = semantic(pair, probe)
    wanted = Wanted.open(alignment.target_states, data, torch.device("cpu"))
    assert wanted.prepared is None
    done, _ = run(AllBlocksInjector(AllBlocksOptions()), pair, alignment, data)
    assert all(value > 0 for value in done.losses["layer"])


# --- schedules


@pytest.mark.parametrize(
    "shape, until, expected",
    [
        ("constant", 1.0, (4, 4, 4)),
        ("linear", 1.0, (4, 2, 0)),
        ("cosine", 1.0, (4, 2, 0)),
        ("constant", 0.5, (4, 0, 0)),
        ("linear", 0.75, (4, 4 / 3, 0)),
        ("cosine", 0.5, (4, 0, 0)),
    ],
)
def test_the_layer_weight_at_start_middle_and_end(shape, until, expected):
    schedule = LayerSchedule(4, shape, until)
    assert [schedule.at(share) for share in (0, 0.5, 1)] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [7, 10, 30])
def test_the_layer_term_ends_where_the_option_says(steps):
    schedule = LayerSchedule(1, "constant", 0.3)
    on = [schedule.at(step / steps) > 0 for step in range(steps)]
    assert on == [step < 0.3 * steps - 1e-9 for step in range(steps)]


def test_after_its_end_the_layer_term_costs_and_changes_nothing():
    """The log shows it falling to 0; no blocks are recorded any more."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    options = AllBlocksOptions(layer_schedule="linear", layer_until=0.5)
    done, _ = run(
        AllBlocksInjector(options), pair, semantic(pair, probe), data_for(probe, steps=10)
    )
    assert all(value > 0 for value in done.losses["layer"][:5])
    assert done.losses["layer"][5:] == [0.0] * 5
    assert all(value > 0 for value in done.losses["cross_entropy"])


@pytest.mark.parametrize("options", [{"layer_weight": 0.0}, {"layer_until": 0.5}])
def test_a_run_that_would_end_without_a_loss_is_refused(options):
    with pytest.raises(UsageError, match="no loss"):
        AllBlocksOptions(output_weight=0.0, **options)


def test_output_weight_multiplies_the_output_term():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    first = []
    for weight in (1.0, 0.25):
        options = AllBlocksOptions(output_weight=weight)
        done, _ = run(
            AllBlocksInjector(options), pair, semantic(pair, probe), data_for(probe, steps=1)
        )
        first.append(done.losses["cross_entropy"][0])
    assert first[1] == pytest.approx(first[0] / 4)


# --- weights of positions


def test_confidence_is_the_sources_probability_of_gold_over_its_mean():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    data = attrs.evolve(data_for(probe), rows=(0, 2, 4))
    found = gold_confidence(data, Origin.SOURCE, (), answers_only=True)
    batch = collate(probe.encoded("train"), [0, 2, 4], pad_id=0, device="cpu")
    chances = probe.logits("train").read([0, 2, 4]).softmax(1)
    gold = chances.gather(1, batch.gold[:, None]).squeeze(1)
    kept = (~batch.ending).nonzero().squeeze(1)
    weights = found.read([0, 2, 4], [CONFIDENCE], kept)[CONFIDENCE]
    torch.testing.assert_close(weights, gold[kept] / gold[kept].mean())
    assert weights.mean().item() == pytest.approx(1, abs=1e-5)


def test_confidence_of_the_placebos_is_that_of_whose_states_are_read():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    data = data_for(probe)
    other = [1, 2, 3, 4, 5, 0]
    everything = torch.arange(3)
    shuffled = gold_confidence(data, Origin.SOURCE, other, answers_only=False)
    plain = gold_confidence(data, Origin.SOURCE, (), answers_only=False)
    own = gold_confidence(data, Origin.TARGET, (), answers_only=False)
    read = [f.read([0], [CONFIDENCE], everything)[CONFIDENCE] for f in (shuffled, plain, own)]
    stand_in = plain.read([1], [CONFIDENCE], everything)[CONFIDENCE]
    torch.testing.assert_close(read[0], stand_in)
    assert not torch.allclose(read[1], read[2])


def test_token_weights_change_the_layer_term_and_need_one_per_token():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    losses = []
    for weight in ("uniform", "source-confidence"):
        options = AllBlocksOptions(token_weight=weight)
        done, _ = run(AllBlocksInjector(options), pair, semantic(pair, probe), data_for(probe))
        losses.append(done.losses["layer"])
    assert losses[0] != losses[1]
    with pytest.raises(UsageError, match=r"relation.*cosine, centred-cosine, mse, fisher"):
        AllBlocksOptions(layer_term="relation", token_weight="source-confidence")


# --- which blocks


def test_one_block_can_be_any_linked_one():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    before = snapshot(pair.target)
    for chosen, block in (((), 2), ((1,), 1)):
        injector = OneBlockInjector(OneBlockOptions(blocks=chosen, rank=2))
        done, after = run(injector, pair, semantic(pair, probe), data_for(probe))
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert moved and moved <= set(pair.target.anatomy.block_parameters(block))
        assert done.diagnostics["blocks"] == [block]


@pytest.mark.parametrize(
    "name, blocks, message",
    [
        ("all-blocks", (7,), r"block 7.*0\.\.2.*linked are 0, 1"),
        ("frontier", (-1,), r"block -1.*0\.\.2"),
        ("all-blocks", (0, 2), r"block 2, which the layer map does not link; linked are 0, 1"),
        ("one-block", (2,), r"does not link"),
        ("one-block", (0, 1), r"steers one block.*2: 0, 1.*frontier"),
    ],
)
def test_blocks_that_cannot_be_steered_are_refused_with_figures(name, blocks, message):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    kind, options = INJECTORS[name]
    with pytest.raises(StrategyError, match=message):
        run(kind(options(blocks=blocks)), pair, semantic(pair, probe, 0, 1), data_for(probe))


def test_all_blocks_with_some_blocks_looks_at_those_only():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    alignment = semantic(pair, probe)
    done, after = run(
        AllBlocksInjector(AllBlocksOptions(blocks=(1,))), pair, alignment, data_for(probe)
    )
    assert done.diagnostics["blocks"] == [1]
    moved = {n for n, v in after.items() if not torch.equal(v, snapshot(pair.target)[n])}
    assert any(name.startswith("model.layers.2") for name in moved), "all weights still train"


# --- options


def test_the_injectors_share_one_set_of_options():
    shared = {field.name: field for field in describe_options(SteeringOptions)}
    for _, options in INJECTORS.values():
        own = {field.name: field for field in describe_options(options)}
        assert shared.keys() <= own.keys()
        for name, field in shared.items():
            assert (own[name].type, own[name].choices) == (field.type, field.choices)
            assert own[name].doc


def test_options_are_checked_where_defaults_were_replaced():
    with pytest.raises(UsageError, match="cosine"):
        build_options(OneBlockOptions, {"layer_term": "cosin"}, "injector")
    with pytest.raises(UsageError, match="layer_weight"):
        build_options(FrontierOptions, {"layer_weight": -1}, "injector")
    built = build_options(FrontierOptions, {"blocks": [0, 2], "layer_until": "0.5"}, "injector")
    assert built.blocks == (0, 2) and built.layer_until == 0.5


def test_published_defaults():
    one = OneBlockOptions()
    assert (one.layer_term, one.layer_weight, one.output, one.rank) == ("cosine", 1, "cosine", 16)
    assert one.modules == ("up", "down", "v", "o") and not one.answers_only
    frontier = FrontierOptions()
    assert (frontier.layer_term, frontier.output) == ("fisher", "kl")


def test_together_steers_all_the_time():
    focus = Together((0, 2))
    assert [focus.at(share) for share in (0, 0.5, 1)] == [(0, 2)] * 3

"""The naive baseline: truncation copies what it says, overwriting writes what it is given."""

from __future__ import annotations

import pytest
import torch
from tiny_transfers import data_for, layer_map, pair_of, same_bits, snapshot, tree, word_task

import pktkit_naive
from pktkit.errors import JournalError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.probe import Probe
from pktkit.values import Alignment, DenseUpdate, LayerLink, LayerMap
from pktkit_naive.aligner import Truncate, TruncateOptions
from pktkit_naive.injector import Overwrite, OverwriteOptions, blended
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


def test_plugin_registers_what_the_strategy_names():
    (aligner,) = pktkit_naive.pktkit_latent_aligners()
    (injector,) = pktkit_naive.pktkit_knowledge_injectors()
    (strategy,) = pktkit_naive.pktkit_strategies()
    assert strategy.load() is NAIVE and NAIVE.matcher.name == "depth"
    assert (NAIVE.aligner.name, NAIVE.injector.name) == (aligner.name, injector.name)
    assert aligner.load() is Truncate and injector.load() is Overwrite

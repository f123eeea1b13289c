"""Autocast and checkpointing of the budget: what they must and must not change."""

from __future__ import annotations

import pytest
import torch
from tiny_transfers import data_for, layer_map, pair_of, same_bits, snapshot, tree, word_task

from pktkit.activations.recording import forward, record
from pktkit.budget import Budget
from pktkit.encoding import collate
from pktkit.errors import NonFiniteError, StrategyError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.probe import Probe
from pktkit.training import train
from pktkit.training.adapters import LoraShape
from pktkit.training.capacity import trainable
from pktkit.training.forward_modes import autocast, checkpointing
from pktkit.values import Alignment, Interface
from pktkit_controls.injectors import FineTuneInjector, FineTuneOptions
from pktkit_latent.aligners import SemanticAligner, SemanticOptions
from pktkit_latent.injectors import (
    AllBlocksInjector,
    AllBlocksOptions,
    FrontierInjector,
    FrontierOptions,
)
from pktkit_latent.matchers import DepthMatcher, DepthOptions


def gradients(family: str, capacity: str, interface: Interface, *, on: bool):
    """Return the gradients of a loss on all recorded states and the logits."""
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    shape = LoraShape(rank=2, dropout=0.3) if capacity == "lora" else None
    batch = collate(probe.encoded("train"), range(6), pad_id=0, device="cpu")
    with (
        Journal(pair.target) as journal,
        trainable(pair.target, journal, seed=1, shape=shape) as opened,
    ):
        opened.model.train()
        torch.manual_seed(0)
        with torch.no_grad():  # an adapter that starts at zero would hide half its gradients
            for parameter in opened.parameters:
                parameter.add_(0.05 * torch.randn_like(parameter))
        with checkpointing(pair.target, on=on):
            with record(pair.target.anatomy, range(3), batch) as recording:
                logits = forward(opened.model, batch)
            states = [recording.states(block, interface) for block in range(3)]
            loss = logits.float().logsumexp(1).mean() + sum(s.sin().sum() for s in states)
            loss.backward()
        found = [p.grad.clone() for p in opened.parameters if p.grad is not None]
        opened.model.eval()
        journal.rollback()
    return found


@pytest.mark.parametrize("capacity", ["full", "lora"])
@pytest.mark.parametrize("interface", list(Interface))
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "gpt_neox"])
def test_checkpointing_gives_the_same_gradients_through_recorded_states(
    family, interface, capacity
):
    plain = gradients(family, capacity, interface, on=False)
    recomputed = gradients(family, capacity, interface, on=True)
    assert len(plain) == len(recomputed) > 0
    for ours, theirs in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_checkpointing_keeps_less_for_the_backward_pass():
    """Bytes saved by autograd during the forward pass, counted as they are saved."""
    pair = pair_of("llama", target={"blocks": 6})
    probe = Probe(pair, word_task())
    batch = collate(probe.encoded("train"), range(6), pad_id=0, device="cpu")
    saved = {}
    pair.target.model.train()
    for on in (False, True):
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with (
            checkpointing(pair.target, on=on),
            record(pair.target.anatomy, (), batch),
            torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
        ):
            forward(pair.target.model, batch)
        saved[on] = total
    assert saved[True] < 0.5 * saved[False]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("capacity", ["full", "lora"])
def test_a_run_with_checkpointing_leaves_no_mark_and_the_same_weights(family, capacity):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    before, config = tree(pair.target), pair.target.model.config.to_dict()
    results = []
    for on in (False, True):
        with Journal(pair.target) as journal:
            AllBlocksInjector(AllBlocksOptions(train=capacity, rank=2)).inject(
                pair.target, alignment, data_for(probe, checkpointing=on), journal
            )
            results.append(snapshot(pair.target))
            journal.rollback()
        assert tree(pair.target) == before
        assert pair.target.model.config.to_dict() == config
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_the_frontier_trains_a_deep_block_under_checkpointing():
    """Its blocks below need no gradient, so a checkpoint's input does not require one."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    results = []
    for on in (False, True):
        data = data_for(probe, steps=6, checkpointing=on)
        with Journal(pair.target) as journal:
            FrontierInjector(FrontierOptions(rank=2)).inject(pair.target, alignment, data, journal)
            results.append(snapshot(pair.target))
            assert len(journal.changed()) == 12
            journal.rollback()
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-5)


def test_marks_go_when_training_fails():
    pair = pair_of("llama")
    before = tree(pair.target)
    with pytest.raises(RuntimeError), checkpointing(pair.target, on=True):
        assert tree(pair.target) != before
        raise RuntimeError
    assert tree(pair.target) == before


def test_an_architecture_that_cannot_checkpoint_is_refused(monkeypatch):
    pair = pair_of("llama")
    monkeypatch.setattr(type(pair.target.model), "supports_gradient_checkpointing", False)
    context = checkpointing(pair.target, on=True)
    with pytest.raises(StrategyError, match=r"'llama'.*budget.checkpointing"), context:
        pass


def test_autocast_computes_the_forward_pass_in_bf16_and_nothing_else():
    """Projections see bf16; weights, optimiser and losses stay in fp32."""
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    seen = {"outputs": set(), "losses": set()}
    block = pair.target.anatomy.projections(0)["up"].module
    module = pair.target.model.get_submodule(block)
    handle = module.register_forward_hook(
        lambda m, args, out: seen["outputs"].add((out.dtype, m.weight.dtype))
    )

    class Objective:
        def blocks(self, share):
            return (0,)

        def terms(self, view):
            assert not torch.is_autocast_enabled("cpu")
            loss = torch.nn.functional.cross_entropy(view.logits.float(), view.batch.gold)
            seen["losses"].add(loss.dtype)
            return {"loss": loss}

    with Journal(pair.target) as journal, trainable(pair.target, journal, seed=0) as opened:
        train(pair.target, opened.parameters, data_for(probe, autocast="bfloat16"), Objective())
    handle.remove()
    assert seen == {"outputs": {(torch.bfloat16, torch.float32)}, "losses": {torch.float32}}
    assert all(p.dtype == torch.float32 for p in pair.target.model.parameters())


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("term", ["centred-cosine", "relation", "fisher"])
def test_autocast_stays_close_to_single_precision(family, term):
    pair = pair_of(family)
    probe = Probe(pair, word_task())
    chosen = DepthMatcher(DepthOptions()).match(pair, probe)
    alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
    losses = {}
    for kind in ("none", "bfloat16"):
        data = data_for(probe, autocast=kind, checkpointing=kind != "none")
        with Journal(pair.target) as journal:
            options = AllBlocksOptions(layer_term=term, layer_weight=1)
            done = AllBlocksInjector(options).inject(pair.target, alignment, data, journal)
            journal.rollback()
        losses[kind] = done.losses
    for name, values in losses["none"].items():
        assert losses["bfloat16"][name] == pytest.approx(values, rel=0.1, abs=0.02)
        assert losses["bfloat16"][name] != values


def test_neither_is_the_default_and_both_are_checked():
    assert Budget().autocast == "none" and not Budget().checkpointing
    with autocast("none", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with pytest.raises(UsageError, match="float16"):
        build_options(Budget, {"autocast": "float16"}, "budget")


@pytest.mark.parametrize("mode", [{}, {"autocast": "bfloat16"}, {"checkpointing": True}])
def test_a_loss_that_is_not_finite_names_the_batch_in_every_mode(mode):
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    with torch.no_grad():
        pair.target.anatomy.final_norm.weight.fill_(float("inf"))
    before = snapshot(pair.target)
    message = r"step 1, batch of items i\d"
    with pytest.raises(NonFiniteError, match=message), Journal(pair.target) as journal:
        FineTuneInjector(FineTuneOptions()).inject(
            pair.target, Alignment("none", layer_map(pair, 0)), data_for(probe, **mode), journal
        )
    assert same_bits(pair.target, before)


def test_accumulated_statistics_are_the_micro_batchs_own():
    """Cosines are means over tokens and add up; relations are between tokens of one part."""
    losses = {}
    for term in ("cosine", "relation"):
        for accumulate in (1, 3):
            pair = pair_of("llama")
            probe = Probe(pair, word_task())
            chosen = DepthMatcher(DepthOptions()).match(pair, probe)
            alignment = SemanticAligner(SemanticOptions()).align(pair, chosen, probe)
            options = AllBlocksOptions(layer_term=term, layer_weight=1)
            data = data_for(probe, steps=1, batch_size=6, accumulate=accumulate)
            with Journal(pair.target) as journal:
                done = AllBlocksInjector(options).inject(pair.target, alignment, data, journal)
            losses[term, accumulate] = done.losses["layer"][0]
    assert losses["cosine", 3] == pytest.approx(losses["cosine", 1], rel=1e-4)
    assert losses["relation", 3] != pytest.approx(losses["relation", 1], rel=1e-2)

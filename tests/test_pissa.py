"""PiSSA: the target's own principal directions, without the source."""

from __future__ import annotations

import pytest
import torch
from low_rank_starts import begun, best_of_rank, relative_error
from tiny_transfers import data_for, layer_map, logits, pair_of, same_bits, snapshot, word_task

from pktkit.errors import NonFiniteError, UsageError
from pktkit.journal import Journal
from pktkit.options import build_options
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.transfer import run_transfer
from pktkit_seeking.injector import LoraStart, LoraStartOptions
from pktkit_seeking.principal import PrincipalDirections, PrincipalOptions
from pktkit_seeking.strategies import PISSA

FAMILIES = ("llama", "qwen2", "gpt2", "gpt_neox", "gemma")


def principal(pair, **options):
    aligner = PrincipalDirections(PrincipalOptions(**({"rank": 4} | options)))
    return aligner.align(pair, layer_map(pair), None)


@pytest.mark.parametrize("family", FAMILIES)
def test_updates_are_the_targets_own_best_approximations(family):
    pair = pair_of(family)
    for sigma in ("both", "B"):
        alignment = principal(pair, sigma=sigma)
        for update in alignment.low_rank:
            anatomy = pair.target.anatomy
            if update.projection == "embed":
                matrix = anatomy.embedding.weight.detach().T
            elif update.projection == "head":
                matrix = anatomy.head_weight.detach()
            else:
                matrix = anatomy.projections(update.block)[update.projection].read(
                    pair.target.model
                )
            assert torch.allclose(update.b @ update.a, best_of_rank(matrix, 4), atol=1e-4)
            norms = update.b.norm(dim=0), update.a.norm(dim=1)
            one = torch.ones(4)
            assert torch.allclose(norms[1], norms[0] if sigma == "both" else one, rtol=1e-4)
        places = {(u.block, u.projection) for u in alignment.low_rank}
        blocks = {b for b, _ in places if 0 <= b < 3}
        assert blocks == {0, 1, 2} and len(places) == len(alignment.low_rank)
        assert ((-1, "embed") in places) is not pair.target.anatomy.tied


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [4.0, 16.0])
def test_step_zero_is_the_untouched_target_and_the_rest_is_the_residual(family, alpha):
    """At any alpha the adapter adds the principal part itself, as peft's own PiSSA does."""
    pair = pair_of(family)
    before = logits(pair.target)
    alignment = principal(pair)
    relative, started, merged, _ = begun(pair, alignment, alpha=alpha, divide=True)
    assert relative_error(started, before) < 1e-5 and relative_error(merged, before) < 1e-5
    assert max(relative.values()) <= 1.0


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_the_start_equals_that_of_peft():
    from peft import LoraConfig, get_peft_model

    pair = pair_of("llama")
    update = next(u for u in principal(pair).low_rank if (u.block, u.projection) == (1, "up"))
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["up_proj"], init_lora_weights="pissa")
    layer = get_peft_model(pair.target.model, config).base_model.model.model.layers[1].mlp.up_proj
    b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    assert torch.allclose(b @ a, update.b @ update.a, atol=1e-5)
    assert torch.allclose(b.norm(dim=0), update.b.norm(dim=0), rtol=1e-4)
    assert torch.allclose(a.norm(dim=1), update.a.norm(dim=1), rtol=1e-4)


def test_a_transfer_reads_no_source_and_learns():
    pair = pair_of("llama", source={"vocab": 59})
    before = snapshot(pair.source)
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        done = run_transfer(
            PISSA,
            pair,
            probe,
            data_for(probe, steps=30),
            journal,
            Registry.discover(),
            task="words",
        )
    losses = done.injection.losses["cross_entropy"]
    assert losses[-1] < 0.5 * losses[0]
    assert done.injection.diagnostics["start"] == "product"
    assert same_bits(pair.source, before)


def test_bad_weights_names_and_ranks_are_refused():
    pair = pair_of("gemma")
    with pytest.raises(UsageError, match="'embed' was asked for, but target 'gemma' ties"):
        principal(pair, modules=("embed",))
    with pytest.raises(UsageError, match="rank 64 is above the smaller side"):
        principal(pair, rank=64)
    for bad in ({"sigma": "A"}, {"modules": ["lm_head"]}, {"rank": 0}, {"svd": "thin"}):
        with pytest.raises(UsageError):
            build_options(PrincipalOptions, bad, "aligner")
    with torch.no_grad():
        pair.target.model.get_parameter("model.layers.2.mlp.up_proj.weight")[0, 0] = torch.inf
    with pytest.raises(NonFiniteError, match="up of target block 2"):
        principal(pair)


def test_a_failure_in_training_puts_the_target_back():
    pair = pair_of("llama")
    probe, before = Probe(pair, word_task()), snapshot(pair.target)
    with pytest.raises(NonFiniteError), Journal(pair.target) as journal:
        LoraStart(LoraStartOptions(start="product")).inject(
            pair.target, principal(pair), data_for(probe, learning_rate=1e30), journal
        )
    assert same_bits(pair.target, before)

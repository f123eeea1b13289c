"""Sources in another precision, packed in few bits, or with a padded vocabulary."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from tiny_transfers import data_for, logits, pair_of, word_task
from torch import nn

from pktkit.compare.plan import PairSpec
from pktkit.discovery.plugins import load_plugins
from pktkit.errors import PairIncompatibleError
from pktkit.families import Anatomy
from pktkit.journal import Journal
from pktkit.pair import ModelPair, save_model, weights_hash
from pktkit.probe import Probe
from pktkit.quantised import is_quantised
from pktkit.registry import Registry
from pktkit.testing import tiny_loaded, tiny_tokenizer
from pktkit.transfer import run_transfer


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(load_plugins())


class Int8Linear(nn.Linear):
    """A layer whose weight is packed as bitsandbytes packs it in 8 bits: rows times a scale."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        scale = plain.weight.detach().abs().amax(dim=1)
        packed = (plain.weight.detach() / scale[:, None] * 127).round().to(torch.int8)
        self.weight: Any = nn.Parameter(packed, requires_grad=False)
        self.weight.SCB = scale
        self.bias = plain.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        weight = self.weight.float() * (self.weight.SCB / 127)[:, None]
        return nn.functional.linear(states, weight.to(states), self.bias)


def packed(pair: ModelPair) -> ModelPair:
    """Pack all linear layers of a pair's source but the head."""
    model = pair.source.model
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, Int8Linear(module))
    source = attrs.evolve(pair.source, anatomy=Anatomy.of(model))
    return ModelPair(source, pair.target)


def run(pair: ModelPair, name: str, registry: Registry) -> dict[str, torch.Tensor]:
    """Return the target's parameters after a short transfer."""
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal:
        data = data_for(probe)
        run_transfer(registry.strategy(name), pair, probe, data, journal, registry, task="words")
        return {n: p.detach().clone() for n, p in pair.target.model.named_parameters()}


def way(after: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return how far a transfer moved the tiny target."""
    before = dict(pair_of("llama").target.model.named_parameters())
    return torch.cat([(after[name] - p.detach()).flatten() for name, p in before.items()])


@pytest.mark.parametrize("name", ["kd", "latent", "laten", "naive", "transplant"])
def test_a_packed_source_is_read_as_what_its_bits_stand_for(registry: Registry, name: str) -> None:
    """Weights are unpacked where a strategy takes them; states and logits come from the layers."""
    pair = packed(pair_of("llama"))
    with Journal(pair.source) as journal:
        journal.verify()
    assert is_quantised(pair.source.model) and not is_quantised(pair.target.model)
    assert pair.source.anatomy.ffn_width == 72
    plain = pair_of("llama")
    with torch.no_grad():
        for block in range(plain.source.anatomy.n_blocks):
            for kind, projection in pair.source.anatomy.projections(block).items():
                into = plain.source.anatomy.projections(block)[kind]
                plain.source.model.get_parameter(into.parameter).copy_(
                    projection.read(pair.source.model)
                )
    found, expected = way(run(pair, name, registry)), way(run(plain, name, registry))
    assert expected.norm() > 0 or name == "transplant", "which may choose not to move"
    assert (found - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("seeking", "sensitivity of the source's weights needs.*Leave out --source-quant"),
        ("naive-task-vector", None),
    ],
)
def test_what_needs_the_source_in_full_precision_says_so(
    registry: Registry, name: str, message: str | None, tmp_path: Any
) -> None:
    pair = packed(pair_of("llama"))
    strategy = registry.strategy(name)
    if message is None:
        base = save_model(tiny_loaded("llama"), tmp_path / "base")
        assert strategy.aligner is not None
        options = {**strategy.aligner.options, "base": str(base)}
        strategy = attrs.evolve(strategy, aligner=attrs.evolve(strategy.aligner, options=options))
        message = "a task vector needs the source's weights in full precision"
    probe = Probe(pair, word_task())
    with Journal(pair.target) as journal, pytest.raises(PairIncompatibleError, match=message):
        run_transfer(strategy, pair, probe, data_for(probe), journal, registry, task="words")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("quant", ["8bit", "4bit"])
def test_a_source_packed_by_bitsandbytes(
    registry: Registry, tmp_path: Any, family: str, quant: str
) -> None:
    pytest.importorskip("bitsandbytes")
    sizes = {"width": 64, "blocks": 2, "ffn": 128}
    plain = tiny_loaded(family, seed=1, **sizes)
    place = str(save_model(plain, tmp_path / "source"))
    source = PairSpec(place, place, source_quant=quant).load().source
    assert is_quantised(source.model)
    assert source.anatomy.ffn_width == plain.anatomy.ffn_width
    with Journal(source) as journal:
        logits(source)  # 8-bit layers move their scales when they are first called
        for name, projection in source.anatomy.projections(1).items():
            own = plain.anatomy.projections(1)[name].read(plain.model)
            apart = projection.read(source.model).float() - own
            assert apart.norm() < (0.02 if quant == "8bit" else 0.2) * own.norm(), name
        journal.verify()
    pair = ModelPair(source, pair_of("llama", target={"width": 32}).target)
    assert way(run(pair, "latent", registry)).isfinite().all()


def test_scales_of_packed_weights_are_part_of_the_hash() -> None:
    pair = packed(pair_of("llama"))
    before = weights_hash(pair.source.model)
    layer: Any = pair.source.model.get_submodule("model.layers.0.mlp.up_proj")
    layer.weight.SCB = layer.weight.SCB * 2
    assert weights_hash(pair.source.model) != before


@pytest.mark.parametrize("name", ["kd", "latent", "seeking", "laten", "naive", "transplant"])
def test_a_source_in_half_precision_beside_a_target_in_full(registry: Registry, name: str) -> None:
    expected = way(run(pair_of("llama"), name, registry))
    pair = pair_of("llama")
    pair.source.model.bfloat16()
    found = run(pair, name, registry)
    assert all(value.dtype is torch.float32 for value in found.values())
    moved = way(found)
    assert bool(moved.isfinite().all())
    assert 0.5 < float(moved.norm() / expected.norm()) < 2


def test_each_model_gets_its_own_precision_and_device(tmp_path: Any) -> None:
    place = str(save_model(tiny_loaded("llama", blocks=1), tmp_path / "tiny"))
    spec = PairSpec(place, place, source_dtype="bfloat16", source_device="auto", device="cpu")
    pair = spec.load()
    assert (pair.source.model.dtype, pair.target.model.dtype) == (torch.bfloat16, torch.float32)
    assert not any(p.requires_grad for p in pair.source.model.parameters())
    assert spec.devices == ("auto", "cpu")


def padded(rows: int, side: dict[str, Any], seed: int) -> Any:
    """Build a model whose head has more rows than there are tokens, and loud ones."""
    handle = tiny_loaded("llama", vocab=rows, seed=seed, tied=False, **side)
    with torch.no_grad():
        handle.anatomy.head_weight[61:] *= 50
    return attrs.evolve(handle, tokenizer=tiny_tokenizer(61))


@pytest.mark.parametrize("name", ["kd", "latent", "naive"])
def test_rows_that_only_pad_a_vocabulary_do_not_matter(registry: Registry, name: str) -> None:
    """Source and target are padded to different sizes; what pads is not knowledge."""
    small = {"width": 32, "blocks": 3}
    results = []
    for seed in (7, 8):
        pair = ModelPair(padded(80, small, 1), padded(64, small, 2))
        pair.source.model.requires_grad_(False)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pair.source.anatomy.head_weight[61:].normal_(0.0, 10.0)
        after = run(pair, name, registry)
        results.append(
            {n: p[:61] if p.shape[0] == 64 and p.dim() == 2 else p for n, p in after.items()}
        )
        assert pair.tokenizers.same and len(pair.vocabulary) == 61
    for parameter, value in results[0].items():
        if name != "naive" or not parameter.endswith(("head.weight", "embed_tokens.weight")):
            assert torch.allclose(value, results[1][parameter], atol=1e-6), parameter

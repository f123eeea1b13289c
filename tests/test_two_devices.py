"""Source and target on different devices: nothing meets across, and the numbers are the same."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import attrs
import pytest
import torch
from second_device import PLACE, Elsewhere, moved, second_device
from tiny_transfers import data_for, pair_of, word_task

from pktkit.components import Strategy
from pktkit.discovery.plugins import load_plugins
from pktkit.journal import Journal
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.registry import Registry
from pktkit.settings import ProbeSettings
from pktkit.transfer import run_transfer

STRATEGIES = (
    "kd",
    "latent",
    "latent-hint",
    "latent-fisher",
    "shuffled",
    "seeking",
    "laten",
    "naive",
    "transplant",
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(load_plugins())


def transferred(
    pair: ModelPair, strategy: Strategy, registry: Registry, settings: ProbeSettings
) -> dict[str, torch.Tensor]:
    """Return the target's parameters after a short transfer."""
    probe = Probe(pair, word_task(), settings=settings)
    with Journal(pair.target) as journal:
        run_transfer(
            strategy, pair, probe, data_for(probe, steps=3), journal, registry, task="words"
        )
        return {n: p.detach().clone() for n, p in pair.target.model.named_parameters()}


def cases() -> list[Any]:
    """Give every strategy with either model elsewhere; the quick tests take a few of them."""
    quick = {("kd", "source", False), ("latent", "target", False), ("naive", "source", True)}
    return [
        pytest.param(*case, marks=() if case in quick else pytest.mark.real)
        for case in itertools.product(STRATEGIES, ("source", "target"), (True, False))
    ]


@pytest.mark.parametrize(("name", "side", "stored"), cases())
def test_a_model_elsewhere_makes_no_difference(
    registry: Registry, name: str, side: str, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = functools.partial(torch.optim.AdamW, foreach=False)
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *args, fused=None, **rest: plain(*args, **rest)
    )
    strategy = registry.strategy(name)
    settings = attrs.evolve(ProbeSettings(), max_bytes=1 << 30 if stored else 0)
    expected = transferred(pair_of("llama"), strategy, registry, settings)
    pair = pair_of("llama")
    moved(getattr(pair, side).model)
    with second_device():
        found = transferred(pair, strategy, registry, settings)
    assert all(isinstance(value, Elsewhere) is (side == "target") for value in found.values())
    found = {name: value.to("cpu") for name, value in found.items()}
    before = dict(pair_of("llama").target.model.named_parameters())
    way = torch.cat([(expected[n] - p.detach()).flatten() for n, p in before.items()])
    apart = torch.cat([(expected[n] - found[n]).flatten() for n in before])
    assert way.norm() > 0
    assert apart.norm() < 1e-2 * way.norm(), "up to rounding, which AdamW amplifies"


def test_a_meeting_of_two_devices_is_noticed() -> None:
    here = torch.ones(3)
    with second_device():
        there = torch.tensor([1.0, 2.0, 3.0], device=PLACE)
        assert (there.to("cpu") + here).tolist() == [2.0, 3.0, 4.0]
        assert (there * 2).tolist() == [2.0, 4.0, 6.0]
        with pytest.raises(RuntimeError, match="tensors of two devices meet"):
            there + here

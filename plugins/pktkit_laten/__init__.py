"""Built-in pktkit plugin: neurons through a hypernetwork (LaTen, arXiv 2505.14436)."""

from __future__ import annotations

from collections.abc import Iterable

from pktkit.components import Component
from pktkit.hookspecs import hookimpl

REFERENCE = "arXiv 2505.14436"


@hookimpl
def pktkit_layer_matchers() -> Iterable[Component]:
    """Register the neuron-attribution matcher."""
    return [
        Component(
            name="neuron-attribution",
            path="pktkit_laten.matcher:NeuronAttributionMatcher",
            summary="keeps the blocks whose attention or feed-forward half raises the answer most",
            reference=REFERENCE,
        )
    ]


@hookimpl
def pktkit_latent_aligners() -> Iterable[Component]:
    """Register the hypernetwork."""
    return [
        Component(
            name="hypernetwork",
            path="pktkit_laten.aligner:Hypernetwork",
            summary="learns to turn the source's neurons into changes of the target's",
            reference=REFERENCE,
        )
    ]


@hookimpl
def pktkit_knowledge_injectors() -> Iterable[Component]:
    """Register adding once."""
    return [
        Component(
            name="add-once",
            path="pktkit_laten.injector:AddOnce",
            summary="adds sparse updates to the weights in fp32, without training",
            reference=REFERENCE,
        )
    ]


@hookimpl
def pktkit_strategies() -> Iterable[Component]:
    """Register the strategies `laten` and `laten-released`."""
    return [
        Component(
            name="laten",
            path="pktkit_laten.strategies:LATEN",
            summary="the source's strongest neurons, mapped by a hypernetwork, added once",
            reference=REFERENCE,
        ),
        Component(
            name="laten-released",
            path="pktkit_laten.strategies:LATEN_RELEASED",
            summary="laten with the attribution of the released code",
            reference=REFERENCE,
        ),
    ]

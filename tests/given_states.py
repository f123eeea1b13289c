"""Given states of two spaces, their moments, and aligners on tiny pairs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from tiny_transfers import layer_map, word_task

from pktkit.activations.moments import Moments, stream_moments
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.state_maps import identity
from pktkit.values import Interface, LayerLink, LayerMap, TargetStates
from pktkit_latent.aligners import (
    CcaAligner,
    HintAligner,
    ProcrustesAligner,
    RelationAligner,
    RidgeAligner,
    SelfAnchor,
    SemanticAligner,
)
from pktkit_latent.aligners.cca import cca_map
from pktkit_latent.aligners.procrustes import procrustes_map
from pktkit_latent.aligners.ridge import ridge_map

FEW = settings(max_examples=12, deadline=None)
SEEDS = st.integers(0, 2**31)
FITTED = {"ridge": RidgeAligner, "procrustes": ProcrustesAligner, "cca": CcaAligner}
ALL = FITTED | {
    "semantic": SemanticAligner,
    "hint": HintAligner,
    "relation": RelationAligner,
    "self": SelfAnchor,
}
TOLERANCE: dict[str, Any] = {"rtol": 1e-7, "atol": 1e-8}

FITS = {
    "ridge": lambda m: ridge_map(m, 1e-2),
    "procrustes": lambda m: procrustes_map(m, "fitted")[0],
    "cca": lambda m: cca_map(m, variance=1.0, rank=None, shrinkage=1e-2)[0],
}


def drawn(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def rotation(width: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(drawn(seed, width, width))[0]


def related(seed: int, tokens: int, d_source: int, d_target: int) -> tuple[torch.Tensor, ...]:
    """Correlated states of two widths, with means."""
    source = drawn(seed, tokens, d_source) + drawn(seed + 1, d_source)
    noise = 0.3 * drawn(seed + 2, tokens, d_target)
    return source, source @ drawn(seed + 3, d_source, d_target) + noise + 2.0


class Given:
    """Stands in for `PairedStates`: states in memory, in chunks of given sizes."""

    split = "given"

    def __init__(self, source: dict, target: dict, cuts: list[int]) -> None:
        self.source, self.target, self.cuts = source, target, cuts
        widths = [next(iter(side.values())).shape[1] for side in (source, target)]
        models = [SimpleNamespace(anatomy=SimpleNamespace(width=width)) for width in widths]
        pair = SimpleNamespace(source=models[0], target=models[1])
        self.probe = SimpleNamespace(pair=pair)

    def chunks(self, links: LayerMap):
        tokens = len(next(iter(self.target.values())))
        borders = sorted({0, tokens, *(cut % tokens for cut in self.cuts)})
        mixing = TargetStates(
            {link.target: identity for link in links.links}, links, Interface.RESIDUAL
        )
        for start, stop in itertools.pairwise(borders):
            part = {block: states[start:stop] for block, states in self.source.items()}
            yield (
                {block: mixing.states(block, part) for block in mixing.blocks},
                {block: self.target[block][start:stop] for block in mixing.blocks},
            )


def one_link() -> LayerMap:
    return LayerMap([LayerLink(0, (0,))], 1, 1, "given")


def moments(source: torch.Tensor, target: torch.Tensor, cuts: tuple[int, ...] = ()) -> Moments:
    states = Given({0: source}, {0: target}, list(cuts))
    ((_, found),) = stream_moments(states, one_link(), source=True, target=True)
    return found


def covariance(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left - left.mean(0)).T @ (right - right.mean(0)) / len(left)


def align(name: str, pair: ModelPair, probe: Probe | None = None, links=None, **options: Any):
    aligner = ALL[name](ALL[name].Options(**options))
    chosen = layer_map(pair, 0, 1, 3) if links is None else links
    return aligner.align(pair, chosen, probe or Probe(pair, word_task()))


def probe_tokens(probe: Probe) -> int:
    return sum(item.supervised_count for item in probe.encoded("align").items)

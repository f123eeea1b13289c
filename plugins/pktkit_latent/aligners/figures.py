"""How well aligned states fit the target's own, per block, beside a shuffled control.

Figures are taken on a sample of the tokens an aligner was fitted on: they say whether a fit
worked, not how it generalises. Cosines are centred, because uncentred ones mostly measure the mean
direction and are as high for the states of other items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from pktkit.activations.similarity import centred_cosine, linear_cka
from pktkit.probe.readers import RowIndex
from pktkit.state_maps import AffineMap
from pktkit.values import LayerMap, Space, TargetStates

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.activations.paired import PairedStates, States

FIGURE_TOKENS = 1024
"""About how many tokens figures are computed on."""


def fit_figures(states: TargetStates, paired: PairedStates) -> dict[str, Any]:
    """Compare mapped source states with the target's own states of the same tokens.

    Arguments:
        states: mapped states of the source.
        paired: where states are read.

    Returns:
        `split`, `tokens`, and lists over target blocks (in the order of `blocks`): in the
        target's space `centred_cosine` and, for maps that keep lengths, `r2`, the share of the
        target's variance that the map explains; in the origin's space `cka`. Each similarity
        has a twin `…_shuffled` whose source states are another item's (null if there is one item
        only). JSON-serialisable.
    """
    rows = sampled_rows(paired)
    right = _read(states, paired, rows, others=None)
    shuffled = None
    if len(rows) > 1:
        others = dict(zip(rows, [*rows[1:], rows[0]], strict=True))
        shuffled = _read(states, paired, rows, others)
    name = "centred_cosine" if states.space is Space.TARGET else "cka"
    similarity = centred_cosine if states.space is Space.TARGET else linear_cka
    figures: dict[str, Any] = {
        "split": paired.split,
        "tokens": len(right[1][states.blocks[0]]),
        "blocks": list(states.blocks),
        name: [similarity(*_sides(states, right, block)) for block in states.blocks],
        f"{name}_shuffled": None
        if shuffled is None
        else [similarity(*_sides(states, shuffled, block)) for block in states.blocks],
    }
    if states.space is Space.TARGET and not any(_normalises(m) for m in states.maps.values()):
        figures["r2"] = [explained(*_sides(states, right, block)) for block in states.blocks]
    return figures


def explained(mapped: Tensor, own: Tensor) -> float:
    """Return `R² = 1 − Σ‖y − ŷ‖² / Σ‖y − ȳ‖²`, negative where the mean would fit better.

    Constant states are explained fully (1) if they are met, and not at all (0) otherwise.
    """
    wanted = own.double()
    missed = float((wanted - mapped.double()).square().sum())
    spread = float((wanted - wanted.mean(dim=0)).square().sum())
    if spread == 0:
        return 1.0 if missed == 0 else 0.0
    return 1 - missed / spread


def sampled_rows(paired: PairedStates) -> Sequence[int]:
    """Return evenly spaced rows that have tokens, with about `FIGURE_TOKENS` of them in all."""
    index = RowIndex.of(paired.probe.encoded(paired.split))
    rows: Sequence[int] = range(len(index.counts))
    if paired.kept is not None:
        rows = [row for row in rows if bool(paired.kept[index.positions([row])].any())]
    return rows[:: max(1, paired.tokens // FIGURE_TOKENS)]


def _read(
    states: TargetStates,
    paired: PairedStates,
    rows: Sequence[int],
    others: dict[int, int] | None,
) -> tuple[States, States]:
    chunks = list(paired.chunks(_linked(states), rows=rows, others=others))
    ours = {b: torch.cat([chunk[b] for chunk, _ in chunks]) for b in states.blocks}
    theirs = {b: torch.cat([chunk[b] for _, chunk in chunks]) for b in states.blocks}
    return ours, theirs


def _linked(states: TargetStates) -> LayerMap:
    links = [states.layer_map.link(block) for block in states.blocks]
    return attrs.evolve(states.layer_map, links=links)


def _sides(states: TargetStates, read: tuple[States, States], block: int) -> tuple[Tensor, Tensor]:
    ours, theirs = read
    mapped = states.maps[block](ours[block])
    return mapped, theirs[block].to(mapped.device)


def _normalises(state_map: Any) -> bool:
    return isinstance(state_map, AffineMap) and state_map.normalise

"""Alignments made up for a pair, to try injectors with: states and updates of every form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pktkit.state_maps import AffineMap
from pktkit.updates import DenseUpdate, LowRankUpdate, SparseUpdate
from pktkit.values import Alignment, Interface, TargetStates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.values import LayerMap

RANK = 2


def alignment_of(
    pair: ModelPair, layer_map: LayerMap, *, seed: int, size: float = 0.1
) -> Alignment:
    """Return an alignment that holds affine target states of the residual stream and dense,
    low-rank and sparse updates of every linked block.

    Arguments:
        pair: whose target the updates fit.
        layer_map: the links.
        seed: of all draws.
        size: of the updates, relative to weights of unit gain.
    """
    draw = _Draw(seed)
    widths = pair.target.anatomy.width, pair.source.anatomy.width
    blocks = [link.target for link in layer_map.links]
    maps = {
        block: AffineMap(
            draw(*widths) / widths[1] ** 0.5, centre=draw(widths[1]), offset=draw(widths[0])
        )
        for block in blocks
    }
    return Alignment(
        "kit",
        layer_map,
        target_states=TargetStates(maps, layer_map, Interface.RESIDUAL),
        low_rank=tuple(_low_rank(pair.target.anatomy, blocks, draw, size)),
        dense=tuple(_dense(pair.target, blocks, draw, size)),
        sparse=tuple(_sparse(pair.target.anatomy, blocks, draw, size)),
    )


class _Draw:
    """Gaussian draws in a row, fp64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=self.generator)


def _low_rank(
    anatomy: Anatomy, blocks: list[int], draw: _Draw, size: float
) -> Iterator[LowRankUpdate]:
    for block in blocks:
        for name, projection in anatomy.projections(block).items():
            out, inner = projection.read(anatomy.model).shape
            b, a = draw(out, RANK) * size, draw(RANK, inner) * inner**-0.5
            yield LowRankUpdate(block, name, b.float(), a.float())


def _dense(
    target: LoadedModel, blocks: list[int], draw: _Draw, size: float
) -> Iterator[DenseUpdate]:
    for block in blocks:
        for name in target.anatomy.block_parameters(block):
            own = target.model.get_parameter(name).detach()
            yield DenseUpdate(name, (own + size * draw(*own.shape)).to(own.dtype))


def _sparse(
    anatomy: Anatomy, blocks: list[int], draw: _Draw, size: float
) -> Iterator[SparseUpdate]:
    for block in blocks:
        for axis, name in enumerate(("up", "down")):
            length = anatomy.width
            values = (size * draw(3, length)).float()
            yield SparseUpdate(block, name, axis, torch.tensor([0, 2, 5]), values)

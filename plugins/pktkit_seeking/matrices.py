"""The source's matrices beside their sensitivities and the shapes they are cut to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit_seeking.modules import EMBED, HEAD, Shape

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Projection
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.values import LayerLink, LayerMap


@attrs.frozen(eq=False)
class Matrix:
    """A source matrix beside the shape of its counterpart in the target, as `[out, in]`.

    Arguments:
        block: target block; -1 for the embedding, the target's depth for the LM head.
        source_block: where it comes from, in the same convention.
        name: canonical projection name, `"embed"` or `"head"`.
        value: the source's weights.
        scores: their sensitivities.
        shape: of the target's matrix.
    """

    block: int
    source_block: int
    name: str
    value: Tensor
    scores: Tensor
    shape: Shape


def source_matrices(
    pair: ModelPair,
    layer_map: LayerMap,
    sensitivities: Mapping[str, Tensor],
    shapes: Mapping[tuple[int, str], Shape],
) -> Iterator[Matrix]:
    """Yield one matrix per entry of `shapes` that the layer map links, block by block.

    A link with several source blocks uses the one with the largest weight. Embedding and LM head
    are cut to the tokens that both have rows for.
    """
    for link in layer_map.links:
        yield from _block_matrices(pair.source, link, sensitivities, shapes)
    yield from _vocabulary_matrices(pair.source, sensitivities, shapes)


def _block_matrices(
    source: LoadedModel,
    link: LayerLink,
    sensitivities: Mapping[str, Tensor],
    shapes: Mapping[tuple[int, str], Shape],
) -> Iterator[Matrix]:
    block = main_source(link)
    for name, projection in source.anatomy.projections(block).items():
        if (link.target, name) in shapes:
            value = canonical(projection, source.model.get_parameter(projection.parameter).detach())
            scores = canonical(projection, sensitivities[projection.parameter])
            shape = shapes[link.target, name]
            yield Matrix(link.target, block, name, value, scores.to(value.device), shape)


def _vocabulary_matrices(
    source: LoadedModel,
    sensitivities: Mapping[str, Tensor],
    shapes: Mapping[tuple[int, str], Shape],
) -> Iterator[Matrix]:
    for (block, name), shape in shapes.items():
        if name not in (EMBED, HEAD):
            continue
        embed = name == EMBED
        weight = source.anatomy.embedding.weight if embed else source.anatomy.head_weight
        tokens = min(weight.shape[0], shape[1] if embed else shape[0])
        value = weight.detach()[:tokens]
        scores = sensitivities[parameter_name(source, weight)][:tokens].to(weight.device)
        yield Matrix(
            block=block,
            source_block=-1 if embed else source.anatomy.n_blocks,
            name=name,
            value=value.T if embed else value,
            scores=scores.T if embed else scores,
            shape=shape,
        )


def main_source(link: LayerLink) -> int:
    """Return the source block of a link with the largest weight, the first of equals."""
    return link.sources[link.weights.index(max(link.weights))]


def main_sources(layer_map: LayerMap) -> Sequence[int]:
    """Return the source blocks that a layer map's links are cut from, each once, ascending."""
    return sorted({main_source(link) for link in layer_map.links})


def canonical(projection: Projection, stored: Tensor) -> Tensor:
    """Return a projection's part of a tensor shaped like its parameter, as `[out, in]`."""
    matrix = stored.T if projection.transposed else stored
    return matrix if projection.rows is None else matrix[projection.rows]


def parameter_name(model: LoadedModel, parameter: Tensor) -> str:
    """Return a parameter's name in `named_parameters()`, where tied weights appear once."""
    return next(name for name, each in model.model.named_parameters() if each is parameter)

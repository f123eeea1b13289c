"""The most sensitive windows of the source's matrices, as low-rank updates of the target.

Source: arXiv 2310.11451, section 3. Every matrix chooses its window alone: matrices of one block
sit at different offsets of the residual stream, and windows do not respect head boundaries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators

from pktkit.families import PROJECTIONS
from pktkit.options import option
from pktkit.values import Alignment, LayerLink, LayerMap, LowRankUpdate
from pktkit_seeking.window import Window, best_window, random_window

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Projection
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe

EMBED, HEAD = "embed", "head"
MODULES = (*PROJECTIONS, EMBED, HEAD)
"""What the published method extracts from."""

OVERSAMPLING = 16
"""Extra directions of the randomised decomposition."""


@attrs.frozen
class SubmatrixOptions:
    """Settings of the sub-matrix aligner.

    `embed` and `head` are passed over where the target ties them (an adapter on one end would
    not undo what is subtracted from both), and where the tokenizers differ.
    """

    rank: int = option(16, "Rank of each extracted update.", validator=validators.ge(1))
    modules: tuple[str, ...] = option(
        MODULES,
        "Matrices to extract, out of q k v o gate up down embed head.",
        validator=validators.deep_iterable(validators.in_(MODULES)),
    )
    window: str = option(
        "block",
        "block takes the most sensitive contiguous window, random any window (a control).",
        choices=("block", "random"),
    )
    decomposition: str = option(
        "thin",
        "thin computes all singular vectors, randomised only the leading ones (faster).",
        choices=("thin", "randomised"),
    )
    split: str = option("extract", "Split whose answers the sensitivities are taken on.")
    seed: int = option(0, "Seed of random windows and of the randomised decomposition.")


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
    shape: tuple[int, int]


class SensitiveSubmatrix:
    """Cuts from each source matrix the window of the target's shape that is most sensitive.

    The window's leading singular triplets become `B = U Σ`, `A = Vᵀ`. Where the target's matrix
    is larger in a dimension, the whole dimension is taken and padded with zeros at its end. The
    vocabulary side of embedding and LM head never moves: row i means token i.

    A link with several source blocks uses the one with the largest weight. Projections that the
    source lacks are passed over.
    """

    Options = SubmatrixOptions

    def __init__(self, options: SubmatrixOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one low-rank update per matrix; diagnostics list every window.

        Raises:
            NonFiniteError: a sensitivity is not finite.
        """
        sensitivities = probe.sensitivities(self.options.split)
        generator = torch.Generator().manual_seed(self.options.seed)
        updates, windows = [], []
        for matrix in self._matrices(pair, layer_map, sensitivities):
            window = self._window(matrix, generator)
            cut = window.cut(matrix.value, matrix.shape).float()
            b, a = factors(cut, self.options.rank, self.options.decomposition, self.options.seed)
            updates.append(LowRankUpdate(matrix.block, matrix.name, b, a))
            windows.append(_described(matrix, window, kept_energy(cut, b)))
        done = {update.projection for update in updates}
        diagnostics = {
            "rank": self.options.rank,
            "window": self.options.window,
            "windows": windows,
            "passed_over": [name for name in self.options.modules if name not in done],
        }
        return Alignment(
            "sensitive-submatrix", layer_map, low_rank=updates, diagnostics=diagnostics
        )

    def _matrices(
        self, pair: ModelPair, layer_map: LayerMap, sensitivities: Mapping[str, Tensor]
    ) -> Iterator[Matrix]:
        wanted = self.options.modules
        for link in layer_map.links:
            yield from block_matrices(pair, link, sensitivities, wanted)
        if not pair.target.anatomy.tied and pair.tokenizers.same:
            yield from vocabulary_matrices(pair, sensitivities, wanted)

    def _window(self, matrix: Matrix, generator: torch.Generator) -> Window:
        if self.options.window == "random":
            return random_window(matrix.scores, matrix.shape, generator=generator)
        return best_window(matrix.scores, matrix.shape)


def factors(
    matrix: Tensor, rank: int, decomposition: str = "thin", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return `B = U_r Σ_r` `[out, r]` and `A = V_rᵀ` `[r, in]`, the best approximation of rank r.

    Arguments:
        matrix: `[out, in]`, fp32.
        rank: r; at most the smaller side is used.
        decomposition: `"thin"` or `"randomised"` (range finder with four power iterations).
        seed: of the randomised decomposition; the global random state is left alone.
    """
    rank = min(rank, *matrix.shape)
    if decomposition == "randomised":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            sketch = min(rank + OVERSAMPLING, *matrix.shape)
            u, sigma, v = torch.svd_lowrank(matrix, q=sketch, niter=4)
        vh = v.T
    else:
        u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * sigma[:rank]).contiguous(), vh[:rank].contiguous()


def kept_energy(matrix: Tensor, b: Tensor) -> float:
    """Return the share of the matrix's squared Frobenius norm that `B` keeps, 0 to 1."""
    total = float(matrix.square().sum(dtype=torch.float64))
    return float(b.square().sum(dtype=torch.float64)) / total if total else 1.0


def block_matrices(
    pair: ModelPair, link: LayerLink, sensitivities: Mapping[str, Tensor], wanted: tuple[str, ...]
) -> Iterator[Matrix]:
    """Yield the wanted projections of one link that both models have."""
    source_block = main_source(link)
    ours = pair.source.anatomy.projections(source_block)
    theirs = pair.target.anatomy.projections(link.target)
    for name, projection in theirs.items():
        if name in wanted and name in ours:
            value = ours[name].read(pair.source.model)
            yield Matrix(
                block=link.target,
                source_block=source_block,
                name=name,
                value=value,
                scores=canonical(ours[name], sensitivities[ours[name].parameter]).to(value.device),
                shape=_shape(projection.read(pair.target.model)),
            )


def vocabulary_matrices(
    pair: ModelPair, sensitivities: Mapping[str, Tensor], wanted: tuple[str, ...]
) -> Iterator[Matrix]:
    """Yield embedding `[width, V]` and LM head `[V, width]`, cut to the tokens both rows have."""
    source, target = pair.source, pair.target
    ends = (
        (EMBED, source.anatomy.embedding.weight, target.anatomy.embedding.weight),
        (HEAD, source.anatomy.head_weight, target.anatomy.head_weight),
    )
    for name, ours, theirs in ends:
        if name not in wanted:
            continue
        tokens = min(ours.shape[0], theirs.shape[0])
        scores = sensitivities[parameter_name(source, ours)][:tokens].to(ours.device)
        value = ours.detach()[:tokens]
        embed = name == EMBED
        yield Matrix(
            block=-1 if embed else target.anatomy.n_blocks,
            source_block=-1 if embed else source.anatomy.n_blocks,
            name=name,
            value=value.T if embed else value,
            scores=scores.T if embed else scores,
            shape=_shape(theirs.T if embed else theirs),
        )


def main_source(link: LayerLink) -> int:
    """Return the source block of a link with the largest weight, the first of equals."""
    return link.sources[link.weights.index(max(link.weights))]


def canonical(projection: Projection, stored: Tensor) -> Tensor:
    """Return a projection's part of a tensor shaped like its parameter, as `[out, in]`."""
    matrix = stored.T if projection.transposed else stored
    return matrix if projection.rows is None else matrix[projection.rows]


def parameter_name(model: LoadedModel, parameter: Tensor) -> str:
    """Return a parameter's name in `named_parameters()`, where tied weights appear once."""
    return next(name for name, each in model.model.named_parameters() if each is parameter)


def _shape(matrix: Tensor) -> tuple[int, int]:
    return int(matrix.shape[0]), int(matrix.shape[1])


def _described(matrix: Matrix, window: Window, energy: float) -> dict[str, Any]:
    return {
        "block": matrix.block,
        "source_block": matrix.source_block,
        "module": matrix.name,
        **attrs.asdict(window),
        "energy": energy,
    }

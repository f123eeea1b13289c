"""The most sensitive parts of the source's matrices, as low-rank updates of the target.

Source: arXiv 2310.11451, section 3. In the published form (`block`) every matrix chooses its
window alone: matrices of one block sit at different offsets of the residual stream, and windows
do not respect head boundaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError
from pktkit.options import option
from pktkit.updates import LowRankUpdate
from pktkit.values import Alignment
from pktkit_seeking.coherent import coherent_plan
from pktkit_seeking.factors import SVD, factors, kept_energy
from pktkit_seeking.matrices import source_matrices
from pktkit_seeking.modules import (
    chosen_modules,
    known_modules,
    pair_obstacles,
    require_rank,
    target_shapes,
)
from pktkit_seeking.picks import Picks, rowcol_picks
from pktkit_seeking.window import Window, best_window, random_window

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import LayerMap
    from pktkit_seeking.matrices import Matrix

WINDOWS = ("block", "block-heads", "rowcol", "random", "coherent")

Chooser = Callable[["Matrix"], Window | Picks]


@attrs.frozen
class SubmatrixOptions:
    """Settings of the sub-matrix aligner.

    `embed` and `head` are passed over where the target ties them (an adapter on one end would
    not undo what is subtracted from both), and where the tokenizers differ.
    """

    rank: int = option(16, "Rank of each extracted update.", validator=validators.ge(1))
    modules: tuple[str, ...] = option(
        (),
        "Matrices to extract, out of q k v o gate up down embed head; empty for all possible.",
        validator=known_modules,
    )
    window: str = option(
        "block",
        "block takes the most sensitive contiguous window of each matrix (published), "
        "block-heads the same at whole heads, rowcol its most sensitive rows and columns, "
        "coherent one set of coordinates, heads and neurons for all matrices, "
        "random any window (a control).",
        choices=WINDOWS,
    )
    svd: str = option(
        "exact",
        "exact computes all singular vectors, randomised only the leading ones (faster).",
        choices=SVD,
    )
    niter: int = option(
        4, "Power iterations of the randomised decomposition.", validator=validators.ge(0)
    )
    split: str = option("extract", "Split whose answers the sensitivities are taken on.")
    seed: int = option(0, "Seed of random windows and of the randomised decomposition.")


class SensitiveSubmatrix:
    """Cuts from each source matrix the part of the target's shape that is most sensitive.

    The part's leading singular triplets become `B = U Σ`, `A = Vᵀ`. Where the target's matrix is
    larger in a dimension, the whole dimension is taken and zeros follow. The vocabulary side of
    embedding and LM head never moves: row i means token i. Biases stay the target's own: a
    vector has no low-rank part.
    """

    Options = SubmatrixOptions
    capabilities = Capabilities(
        source_copies=2.0,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
    )

    def __init__(self, options: SubmatrixOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a rank or module that the target has not, and a source without weights."""
        prospect.require_weights("sensitivity of the source's weights")
        anatomy = prospect.pair.target.anatomy
        modules = chosen_modules(self.options.modules, pair_obstacles(prospect.pair))
        shapes = target_shapes(anatomy, range(anatomy.n_blocks), modules)
        require_rank(self.options.rank, shapes)

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one low-rank update per matrix; diagnostics list what was cut.

        Raises:
            UsageError: a module asked for is not possible, or the rank exceeds a matrix's.
            NonFiniteError: a sensitivity is not finite; names the matrix.
        """
        options, obstacles = self.options, pair_obstacles(pair)
        modules = chosen_modules(options.modules, obstacles)
        linked = [link.target for link in layer_map.links]
        shapes = target_shapes(pair.target.anatomy, linked, modules)
        require_rank(options.rank, shapes)
        sensitivities = probe.sensitivities(options.split)
        choose, plan = self._chooser(pair, layer_map, sensitivities)
        updates, windows = [], []
        for matrix in source_matrices(pair, layer_map, sensitivities, shapes):
            part = _chosen(choose, matrix)
            cut = part.cut(matrix.value, matrix.shape).float()
            b, a = factors(
                cut, options.rank, svd=options.svd, niter=options.niter, seed=options.seed
            )
            updates.append(LowRankUpdate(matrix.block, matrix.name, b, a))
            windows.append(_described(matrix, part, kept_energy(cut, b, a)))
        diagnostics = {
            "rank": options.rank,
            "window": options.window,
            "windows": windows,
            "passed_over": obstacles if not options.modules else {},
            **plan,
        }
        return Alignment(
            "sensitive-submatrix", layer_map, low_rank=updates, diagnostics=diagnostics
        )

    def _chooser(
        self, pair: ModelPair, layer_map: LayerMap, sensitivities: Mapping[str, Tensor]
    ) -> tuple[Chooser, dict[str, Any]]:
        """Return what chooses a matrix's part, and what is to be reported of it as a whole."""
        window = self.options.window
        if window == "coherent":
            plan = coherent_plan(pair, layer_map, sensitivities)
            return plan.picks, {"coherent": plan.described()}
        if window == "rowcol":
            return lambda matrix: rowcol_picks(matrix.scores, matrix.shape), {}
        if window == "random":
            generator = torch.Generator().manual_seed(self.options.seed)
            return lambda matrix: random_window(
                matrix.scores, matrix.shape, generator=generator
            ), {}
        head_dim = pair.source.anatomy.head_dim if window == "block-heads" else 1
        return lambda matrix: best_window(
            matrix.scores, matrix.shape, steps=head_steps(matrix.name, head_dim)
        ), {}


def head_steps(name: str, head_dim: int) -> tuple[int, int]:
    """Return the multiples that a window's offsets are held to so that it begins at a head."""
    return (head_dim if name in ("q", "k", "v") else 1, head_dim if name == "o" else 1)


def _chosen(choose: Chooser, matrix: Matrix) -> Window | Picks:
    try:
        return choose(matrix)
    except NonFiniteError as error:
        where = f"{matrix.name} of source block {matrix.source_block}"
        raise NonFiniteError(f"{where}: {error}") from error


def _described(matrix: Matrix, part: Window | Picks, energy: float) -> dict[str, Any]:
    return {
        "block": matrix.block,
        "source_block": matrix.source_block,
        "module": matrix.name,
        **part.described(),
        "energy": energy,
    }

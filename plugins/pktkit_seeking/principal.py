"""The target's own leading singular directions (PiSSA, arXiv 2404.02948).

The control for extracted starts: the same adapter, the same subtraction, and no source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError
from pktkit.options import option
from pktkit.updates import LowRankUpdate
from pktkit.values import Alignment
from pktkit_seeking.factors import SIGMA, SVD, factors, kept_energy
from pktkit_seeking.matrices import canonical
from pktkit_seeking.modules import (
    EMBED,
    HEAD,
    chosen_modules,
    known_modules,
    require_rank,
    target_obstacles,
    target_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.probe import Probe
    from pktkit.prospect import Prospect
    from pktkit.values import LayerMap


@attrs.frozen
class PrincipalOptions:
    """Settings of the principal-direction aligner; modules, SVD and seed as in Seeking's."""

    rank: int = option(16, "Rank of each update.", validator=validators.ge(1))
    modules: tuple[str, ...] = option(
        (),
        "Matrices to start from, out of q k v o gate up down embed head; empty for all possible.",
        validator=known_modules,
    )
    sigma: str = option(
        "both",
        "both puts the square root of the singular values on each side (PiSSA), "
        "B puts them all on B (as Seeking does).",
        choices=SIGMA,
    )
    svd: str = option(
        "exact",
        "exact computes all singular vectors, randomised only the leading ones (faster).",
        choices=SVD,
    )
    niter: int = option(
        4, "Power iterations of the randomised decomposition.", validator=validators.ge(0)
    )
    seed: int = option(0, "Seed of the randomised decomposition.")


class PrincipalDirections:
    """Takes the leading singular triplets of every matrix of the target itself.

    The source is not read, so any pair will do; a layer map is passed through unused.
    """

    Options = PrincipalOptions
    capabilities = Capabilities(
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
    )

    def __init__(self, options: PrincipalOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse a rank or module that the target has not."""
        target = prospect.pair.target
        modules = chosen_modules(self.options.modules, target_obstacles(target))
        shapes = target_shapes(target.anatomy, range(target.anatomy.n_blocks), modules)
        require_rank(self.options.rank, shapes)

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return one low-rank update per matrix of the target.

        Raises:
            UsageError: a module asked for is not possible, or the rank exceeds a matrix's.
            NonFiniteError: a weight is not finite.
        """
        options, target = self.options, pair.target
        obstacles = target_obstacles(target)
        modules = chosen_modules(options.modules, obstacles)
        shapes = target_shapes(target.anatomy, range(target.anatomy.n_blocks), modules)
        require_rank(options.rank, shapes)
        updates, energies = [], []
        for block, name in shapes:
            matrix = _weight(target, block, name).float()
            b, a = _factors(matrix, block, name, options)
            updates.append(LowRankUpdate(block, name, b, a))
            energies.append({"block": block, "module": name, "energy": kept_energy(matrix, b, a)})
        diagnostics = {
            "rank": options.rank,
            "sigma": options.sigma,
            "matrices": energies,
            "passed_over": obstacles if not options.modules else {},
        }
        return Alignment("principal", layer_map, low_rank=updates, diagnostics=diagnostics)


def _factors(
    matrix: Tensor, block: int, name: str, options: PrincipalOptions
) -> tuple[Tensor, Tensor]:
    try:
        return factors(
            matrix,
            options.rank,
            svd=options.svd,
            niter=options.niter,
            seed=options.seed,
            sigma=options.sigma,
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"{name} of target block {block}: {error}") from error


def _weight(target: LoadedModel, block: int, name: str) -> Tensor:
    """Return one of the target's matrices, `[out, in]`, the embedding as `[width, V]`."""
    anatomy = target.anatomy
    if name == EMBED:
        return anatomy.embedding.weight.detach().T
    if name == HEAD:
        return anatomy.head_weight.detach()
    projection = anatomy.projections(block)[name]
    return canonical(projection, target.model.get_parameter(projection.parameter).detach())

"""Fine-tuning from extracted parameters (arXiv 2310.11451, section 3; public code).

The extracted update is subtracted from the weights first, `W₀ = W − s·BA`, and the adapter starts
at the same `s·BA`: before the first step the target computes what the untouched target does, and
the source enters only as the direction the adapter starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.families import PROJECTIONS
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.training import train
from pktkit.training.adapters import Adapter, LoraShape, added_weight, base_weight, lora
from pktkit.training.objectives import CrossEntropy
from pktkit.values import Injection

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy, Projection
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData
    from pktkit.updates import LowRankUpdate
    from pktkit.values import Alignment


@attrs.frozen
class LoraStartOptions:
    """Settings of the LoRA start; the rank is the alignment's."""

    alpha: float = option(16.0, "The adapter adds alpha / rank · BA.", validator=validators.gt(0))
    dropout: float = option(
        0.05,
        "Dropout on the adapter's input while training.",
        validator=validators.and_(validators.ge(0), validators.lt(1)),
    )
    subtract: str = option(
        "BA",
        "BA takes the start out of the weights first, so that step 0 is the untouched target; "
        "none adds it on top, so that step 0 is the target plus the start.",
        choices=("BA", "none"),
    )
    start: str = option(
        "factors",
        "factors starts the adapter at (B, A), so that it adds alpha / rank · BA; product divides "
        "both by the root of alpha / rank, so that it adds BA.",
        choices=("factors", "product"),
    )


@attrs.frozen(eq=False)
class Start:
    """The start of one module's adapter.

    Arguments:
        module: dotted name of the module.
        b: `[out, rank]`; a: `[rank, in]`, fp32.
    """

    module: str
    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """Inner dimension."""
        return int(self.a.shape[0])

    def divided(self, scale: float) -> Start:
        """Return the start whose product is `BA / scale`, shared evenly by both factors."""
        root = scale**0.5
        return Start(self.module, self.b / root, self.a / root)


class LoraStart:
    """Trains a LoRA adapter that starts at an alignment's low-rank updates, and merges it.

    Every block's modules of the aligned kinds get an adapter; where the alignment has no update
    for one, it starts at zero as usual. Fused query-key-value matrices get one adapter whose rank
    is the sum of its parts' ranks, which holds all parts exactly. All adapters share one scale,
    `alpha` over the largest rank in the alignment. Biases and norms stay as they are.
    """

    Options = LoraStartOptions
    capabilities = Capabilities(any_pair=True)

    def __init__(self, options: LoraStartOptions) -> None:
        self.options = options

    def touches(self, target: LoadedModel, aligner: Any) -> Touched:
        """Return what training moves: an adapter of the aligner's rank on its modules."""
        rank = getattr(getattr(aligner, "options", None), "rank", None)
        if rank is None:
            return Touched.whole(target)
        kinds = tuple(name for name in aligner.options.modules if name not in ("embed", "head"))
        return Touched.adapter(target, LoraShape(rank=rank, kinds=kinds))

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Train on the answers with cross-entropy.

        Raises:
            UsageError: the alignment holds no low-rank updates.
            NonFiniteError: a loss or gradient is not finite.
        """
        if not alignment.low_rank:
            raise UsageError(
                f"injector 'lora-start' needs low-rank updates, aligner '{alignment.method}' gave "
                "none. Use an aligner such as 'sensitive-submatrix'."
            )
        shape = LoraShape(
            rank=max(update.b.shape[1] for update in alignment.low_rank),
            alpha=self.options.alpha,
            dropout=self.options.dropout,
            kinds=tuple(dict.fromkeys(update.projection for update in alignment.low_rank)),
        )
        starts = module_starts(target.anatomy, alignment.low_rank)
        if self.options.start == "product":
            starts = [start.divided(shape.alpha / shape.rank) for start in starts]
        ranks = {start.module: start.rank for start in starts if start.rank != shape.rank}
        with lora(target, journal, shape, ranks=ranks, seed=data.seed) as adapter:
            relative = begin(adapter, starts, journal, subtract=self.options.subtract == "BA")
            log = train(target, adapter.parameters, data, CrossEntropy(), model=adapter.model)
            trainable = sum(parameter.numel() for parameter in adapter.parameters)
        return Injection(
            method="lora-start",
            steps=log.steps,
            tokens=log.tokens,
            trainable_parameters=trainable,
            losses=log.losses,
            diagnostics={
                "rank": shape.rank,
                "scale": shape.alpha / shape.rank,
                "start": self.options.start,
                "subtract": self.options.subtract,
                "relative_start": relative,
            },
        )


def begin(
    adapter: Adapter, starts: Iterable[Start], journal: Journal, *, subtract: bool
) -> Mapping[str, float]:
    """Set the adapter to its starts and, if asked, take them out of the wrapped weights.

    Returns:
        `‖s·BA‖ / ‖W‖` (Frobenius norms) by module.
    """
    layers, relative = adapter.layers(), {}
    for start in starts:
        adapter.start(start.module, start.b, start.a)
        base, added = base_weight(layers[start.module]), added_weight(layers[start.module])
        relative[start.module] = float(added.norm() / base.norm().clamp(min=1e-30))
        if subtract:
            journal.write(f"{start.module}.weight", base - added)
    return relative


def module_starts(anatomy: Anatomy, updates: Iterable[LowRankUpdate]) -> list[Start]:
    """Gather updates by the module that holds their projection, fused ones into one start.

    Raises:
        UsageError: the target has no such projection, or an update has another shape than it.
    """
    by_module: dict[str, list[tuple[LowRankUpdate, Projection | None]]] = {}
    for update in updates:
        module, projection = _place(anatomy, update)
        by_module.setdefault(module, []).append((update, projection))
    return [_start(anatomy, module, parts) for module, parts in by_module.items()]


def _place(anatomy: Anatomy, update: LowRankUpdate) -> tuple[str, Projection | None]:
    """Return the module of an update, and its projection if it is one of a block's."""
    if update.projection not in PROJECTIONS:
        return anatomy.module_names([update.projection])[0], None
    projections = anatomy.projections(update.block)
    if update.projection not in projections:
        raise UsageError(
            f"the alignment updates projection '{update.projection}', which the target's family "
            f"'{anatomy.family}' does not have; it has {', '.join(projections)}."
        )
    projection = projections[update.projection]
    return projection.module, projection


def _start(
    anatomy: Anatomy, module: str, parts: list[tuple[LowRankUpdate, Projection | None]]
) -> Start:
    """Stack the factors of a module's updates: `Σ B_i A_i` placed in the rows of each part."""
    columns = [_full_rows(anatomy, module, *part) for part in parts]
    rows = [update.a.float() for update, _ in parts]
    return Start(module, torch.cat(columns, dim=1), torch.cat(rows, dim=0))


def _full_rows(
    anatomy: Anatomy, module: str, update: LowRankUpdate, projection: Projection | None
) -> Tensor:
    """Return an update's `s·B` with zero rows for the other parts of its module."""
    b = update.b.float() * update.scale
    if projection is None or projection.rows is None:
        return b
    weight: Any = anatomy.model.get_parameter(projection.parameter)
    full = b.new_zeros(weight.shape[1 if projection.transposed else 0], b.shape[1])
    expected = full[projection.rows].shape
    if expected != b.shape:
        raise UsageError(
            f"the update of '{update.projection}' in block {update.block} has "
            f"{b.shape[0]} rows, module '{module}' has {expected[0]} for it."
        )
    full[projection.rows] = b
    return full

"""Sparse updates added to the weights, once (arXiv 2505.14436, without training afterwards).

The public code keeps the change in an attribute beside the weights, which saving drops: what it
writes is the untouched target. Here the change is written into the weights, and an update that the
weights' precision swallows whole is an error.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError, StrategyError, UsageError, unknown_name
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.values import Injection

if TYPE_CHECKING:
    from pktkit.families import Anatomy, Projection
    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData
    from pktkit.updates import SparseUpdate
    from pktkit.values import Alignment


@attrs.frozen
class AddOnceOptions:
    """Settings of adding once."""

    strength: float = option(1.0, "Factor s: W becomes W + s Δ.", validator=validators.gt(0))


@attrs.frozen
class Written:
    """What one projection received.

    Arguments:
        projection: canonical name.
        selected: entries that updates name, each counted once.
        changed: entries whose value differs in the weights' precision.
        largest: largest absolute update.
        update, weight: Frobenius norms.
    """

    projection: str
    selected: int
    changed: int
    largest: float
    update: float
    weight: float


class AddOnce:
    """Adds an alignment's sparse updates to the target: `W ← cast(fp32(W) + s Δ)`.

    Updates that depend on an item are made for one training row, drawn by the run's seed from the
    rows that the budget gives. Nothing is trained here; the steps and tokens reported are those
    that the aligner spent on the target.
    """

    Options = AddOnceOptions
    capabilities = Capabilities(any_pair=True)

    def __init__(self, options: AddOnceOptions) -> None:
        self.options = options

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what is written."""
        return Touched.written(target)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Write the sums and report which share of the selected entries changed.

        Raises:
            UsageError: the alignment holds no sparse updates, or one does not fit the target.
            NonFiniteError: an update is not finite.
            StrategyError: no weight changed, so that the saved model would be the untouched one.
        """
        updates, item = _updates(alignment, data)
        written = [
            self._write(target, projection, parts, journal)
            for projection, parts in _by_projection(target.anatomy, updates)
        ]
        selected = sum(each.selected for each in written)
        changed = sum(each.changed for each in written)
        largest = self.options.strength * max(each.largest for each in written)
        if not changed:
            raise StrategyError(
                f"none of the {selected} selected weights changed in {target.model.dtype}: the "
                f"largest update is {largest:.3g}, and what would be saved is the untouched "
                "target. Use --dtype float32, or raise aligner.learning_rate or injector.strength."
            )
        return Injection(
            method="add-once",
            steps=int(alignment.diagnostics.get("steps", 0)),
            tokens=int(alignment.diagnostics.get("tokens", 0)),
            trainable_parameters=selected,
            diagnostics={
                "item": item,
                "strength": self.options.strength,
                "selected_entries": selected,
                "changed_entries": changed,
                "changed_share": changed / selected,
                "largest_update": largest,
                "relative_update": _relative(written),
            },
        )

    def _write(
        self,
        target: LoadedModel,
        projection: Projection,
        parts: Sequence[SparseUpdate],
        journal: Journal,
    ) -> Written:
        """Add all updates of one projection before the one cast."""
        before = projection.read(target.model)
        update = torch.zeros_like(before, dtype=torch.float32)
        selected = torch.zeros_like(before, dtype=torch.bool)
        for part in parts:
            update = part.added_to(update)
            selected.index_fill_(part.axis, part.indices.to(selected.device), True)
        update *= self.options.strength
        if not bool(update.isfinite().all()):
            raise NonFiniteError(
                f"the update of '{projection.name}' in block {projection.block} is not finite. "
                "Lower aligner.learning_rate."
            )
        after = projection.compose(target.model, before.float() + update)
        journal.write(projection.parameter, after)
        return Written(
            projection=projection.name,
            selected=int(selected.sum()),
            changed=int((projection.read(target.model) != before).sum()),
            largest=float(update.abs().max()),
            update=float(update.norm()),
            weight=float(before.float().norm()),
        )


def _updates(
    alignment: Alignment, data: TransferData
) -> tuple[tuple[SparseUpdate, ...], str | None]:
    """Return the updates to add, and the item they were made for, if for one."""
    updates, item = alignment.sparse, None
    if alignment.sparse_at is not None:
        row = random.Random(data.seed).choice(data.rows)
        example = data.probe.encoded("train").items[row]
        updates, item = (*updates, *alignment.sparse_at(example)), example.id
    if not updates:
        raise UsageError(
            f"injector 'add-once' needs sparse updates, aligner '{alignment.method}' gave none. "
            "Use an aligner such as 'hypernetwork'."
        )
    return updates, item


def _by_projection(
    anatomy: Anatomy, updates: Sequence[SparseUpdate]
) -> Iterator[tuple[Projection, list[SparseUpdate]]]:
    """Group updates by the projection they change.

    Raises:
        UsageError: the target has no such projection.
    """
    grouped: dict[tuple[int, str], list[SparseUpdate]] = {}
    for update in updates:
        grouped.setdefault((update.block, update.projection), []).append(update)
    for (block, name), parts in grouped.items():
        projections = anatomy.projections(block)
        if name not in projections:
            raise unknown_name(f"projection of family '{anatomy.family}'", name, projections)
        yield projections[name], parts


def _relative(written: Sequence[Written]) -> dict[str, float]:
    """Return `‖s Δ‖ / ‖W‖` by projection, over all blocks that received."""
    found = {}
    for name in dict.fromkeys(each.projection for each in written):
        parts = [each for each in written if each.projection == name]
        update = math.hypot(*(each.update for each in parts))
        found[name] = update / max(math.hypot(*(each.weight for each in parts)), 1e-30)
    return found

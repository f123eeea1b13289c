"""Overwriting target parameters, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from attrs import validators

from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.values import Injection

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData
    from pktkit.values import Alignment


@attrs.frozen
class OverwriteOptions:
    """Settings of overwriting."""

    strength: float = option(
        1.0,
        "Share s of the new value: W becomes (1 - s) W + s V.",
        validator=validators.and_(validators.ge(0), validators.le(1)),
    )


class Overwrite:
    """Writes an alignment's dense updates over the target's parameters."""

    Options = OverwriteOptions

    def __init__(self, options: OverwriteOptions) -> None:
        self.options = options

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Write every dense update; with strength 0 the target keeps its bits.

        Raises:
            UsageError: the alignment holds no dense updates.
            JournalError: an update names no parameter, has another shape or is not finite.
        """
        if not alignment.dense:
            raise UsageError(
                f"injector 'overwrite' needs dense updates, aligner '{alignment.method}' gave "
                "none. Use an aligner such as 'truncate'."
            )
        for update in alignment.dense:
            parameter = journal.parameter(update.parameter)
            journal.write(
                update.parameter, blended(parameter.detach(), update.value, self.options.strength)
            )
        return Injection(
            method="overwrite",
            diagnostics={
                "strength": self.options.strength,
                "parameters_written": len(alignment.dense),
                "parameters_changed": len(journal.changed()),
            },
        )


def blended(old: Tensor, new: Tensor, strength: float) -> Tensor:
    """Return `(1 − s) old + s new`, computed in fp32; entries that are equal keep their bits.

    Arguments:
        old, new: tensors of one shape.
        strength: s, 0 to 1; 0 and 1 return exactly `old` and `new`.

    Raises:
        UsageError: the shapes differ.
    """
    if old.shape != new.shape:
        raise UsageError(
            f"a dense update has shape {tuple(new.shape)}, its parameter {tuple(old.shape)}."
        )
    new = new.to(old.device)
    if strength in (0.0, 1.0):
        return new if strength else old
    mixed = old.float().lerp(new.float(), strength)
    return mixed.where(old != new, old.float())

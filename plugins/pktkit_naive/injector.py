"""Writing new values over target parameters, wholly or in part, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from attrs import validators

from pktkit.capabilities import Capabilities
from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.touched import Touched
from pktkit.values import Injection

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.journal import Journal
    from pktkit.pair import LoadedModel
    from pktkit.training import TransferData
    from pktkit.values import Alignment


def share_option(default: float, doc: str) -> Any:
    """Declare how much of the new values an injector takes, 0 to 1."""
    return option(default, doc, validator=validators.and_(validators.ge(0), validators.le(1)))


@attrs.frozen
class OverwriteOptions:
    """Settings of overwriting."""

    strength: float = share_option(1.0, "Share s of the new value: W becomes (1 - s) W + s V.")


class Overwrite:
    """Writes an alignment's dense updates over the target's parameters."""

    Options = OverwriteOptions
    capabilities = Capabilities(any_pair=True, strength_option="strength")

    def __init__(self, options: OverwriteOptions) -> None:
        self.options = options

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what is written."""
        return Touched.written(target)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Write every dense update; with strength 0 the target keeps its bits.

        Raises:
            UsageError: the alignment holds no dense updates.
            JournalError: an update names no parameter, has another shape or is not finite.
        """
        return write(alignment, journal, "overwrite", "strength", self.options.strength)


@attrs.frozen
class InterpolateOptions:
    """Settings of interpolation."""

    alpha: float = share_option(
        0.5, "Share α of the new value, from 0 (the target) to 1 (overwriting)."
    )


class Interpolate:
    """Moves the target's parameters towards an alignment's dense updates: (1 − α) W + α V.

    Where an update keeps the target's own entries, they keep their bits. With updates that hold
    `W + τ`, as those of `task-vector` do, this adds `α τ` (arXiv 2212.04089).
    """

    Options = InterpolateOptions
    capabilities = Capabilities(any_pair=True, strength_option="alpha")

    def __init__(self, options: InterpolateOptions) -> None:
        self.options = options

    def touches(self, target: LoadedModel, aligner: object) -> Touched:
        """Return what is written."""
        return Touched.written(target)

    def inject(
        self, target: LoadedModel, alignment: Alignment, data: TransferData, journal: Journal
    ) -> Injection:
        """Blend every dense update in; α = 0 keeps the target's bits, α = 1 overwrites.

        Raises:
            UsageError: the alignment holds no dense updates.
            JournalError: an update names no parameter, has another shape or is not finite.
        """
        return write(alignment, journal, "interpolate", "alpha", self.options.alpha)


def write(
    alignment: Alignment, journal: Journal, injector: str, setting: str, share: float
) -> Injection:
    """Blend every dense update into the target.

    Arguments:
        alignment: holds the updates.
        journal: through which they are written.
        injector: its name.
        setting: the name of its option for the share.
        share: how much of the new values is taken, 0 to 1.

    Raises:
        UsageError: the alignment holds no dense updates, or one of another shape.
        JournalError: an update names no parameter or is not finite.
    """
    if not alignment.dense:
        raise UsageError(
            f"injector '{injector}' needs dense updates, aligner '{alignment.method}' gave "
            "none. Use an aligner such as 'truncate'."
        )
    for update in alignment.dense:
        parameter = journal.parameter(update.parameter).detach()
        journal.write(update.parameter, blended(parameter, update.value, share))
    return Injection(
        method=injector,
        diagnostics={
            setting: share,
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

"""Changes of the target's parameters that an alignment carries: low-rank, dense, sparse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs

from pktkit.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem


@attrs.frozen(eq=False)
class LowRankUpdate:
    """A low-rank change of one projection, in `[out, in]` orientation: `scale · B A`.

    Arguments:
        block: target block.
        projection: canonical projection name, see `pktkit.families`.
        b: `[out, rank]`; a: `[rank, in]`; scale: multiplies the product.
    """

    block: int
    projection: str
    b: Tensor
    a: Tensor
    scale: float = 1.0


@attrs.frozen(eq=False)
class DenseUpdate:
    """New values for a whole target parameter.

    Arguments:
        parameter: name in the target's `named_parameters()`.
        value: same shape as the parameter; it replaces the parameter.
    """

    parameter: str
    value: Tensor


@attrs.frozen(eq=False)
class SparseUpdate:
    """A change of some rows or columns of one projection, in `[out, in]` orientation.

    Arguments:
        block: target block.
        projection: canonical projection name, see `pktkit.families`.
        axis: 0 where `indices` name rows, 1 where they name columns.
        indices: int64 `[n]`; entries of a repeated index add up.
        values: `[n, length]`, what is added to row or column `indices[i]`.
    """

    block: int
    projection: str
    axis: int = attrs.field(validator=attrs.validators.in_((0, 1)))
    indices: Tensor
    values: Tensor

    def added_to(self, matrix: Tensor) -> Tensor:
        """Return `matrix + update` in fp32.

        Arguments:
            matrix: `[out, in]`, on any device.

        Raises:
            UsageError: the update does not fit the matrix.
        """
        indices, values = self.indices.to(matrix.device), self.values.to(matrix.device).float()
        expected = (len(indices), matrix.shape[1 - self.axis])
        outside = (
            len(indices)
            and not 0 <= int(indices.min()) <= int(indices.max()) < (matrix.shape[self.axis])
        )
        if tuple(values.shape) != expected or outside:
            raise UsageError(
                f"the sparse update of '{self.projection}' in block {self.block} has values of "
                f"shape {tuple(values.shape)} for {'columns' if self.axis else 'rows'} of a matrix "
                f"{tuple(matrix.shape)}; expected {expected} and indices below "
                f"{matrix.shape[self.axis]}."
            )
        return matrix.float().index_add(self.axis, indices, values.T if self.axis else values)


SparseUpdates = Callable[["EncodedItem"], Sequence[SparseUpdate]]
"""Gives the updates for one item, where they depend on which neurons the item makes count."""

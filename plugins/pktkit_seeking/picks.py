"""Rows and columns of a matrix chosen one by one instead of as a contiguous window."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from pktkit_seeking.modules import Shape
from pktkit_seeking.search import BAND
from pktkit_seeking.window import finite_total

NOTHING = -1
"""Index of a row or column that the source has nothing for; it stays zero."""


@attrs.frozen(eq=False)
class Picks:
    """Which row and column of a source matrix each row and column of the target receives.

    Arguments:
        rows: `[out]` int64, indices of the source or `NOTHING`.
        columns: `[in]`, likewise.
        share: share of the matrix's total score at the picked places, 0 to 1.
    """

    rows: Tensor
    columns: Tensor
    share: float

    @classmethod
    def of(cls, scores: Tensor, rows: Tensor, columns: Tensor) -> Picks:
        """Pick from a matrix with the given scores.

        Raises:
            NonFiniteError: a score is not finite.
        """
        total = finite_total(scores)
        inside = finite_total(gathered(scores, rows, columns))
        return cls(rows, columns, inside / total if total else 0.0)

    def cut(self, matrix: Tensor, shape: Shape) -> Tensor:
        """Return the picked entries, `[out, in]`, zero where there is nothing to pick."""
        return gathered(matrix, self.rows, self.columns)

    def described(self) -> dict[str, float]:
        """Return how many rows and columns were picked, and the share, for diagnostics."""
        return {
            "rows": int((self.rows != NOTHING).sum()),
            "columns": int((self.columns != NOTHING).sum()),
            "share": self.share,
        }


def rowcol_picks(scores: Tensor, shape: Shape) -> Picks:
    """Pick the rows and, independently, the columns with the largest sums over the whole matrix.

    They keep their order. The form stands in the public code of arXiv 2310.11451 as a comment,
    and in its ablation ("row/column").

    Arguments:
        scores: `[rows, columns]`, not negative.
        shape: rows and columns wanted; where the matrix has fewer, zeros follow at the end.

    Raises:
        NonFiniteError: a score is not finite.
    """
    by_row, by_column = marginals(scores)
    rows, columns = (
        padded(top(by_row, shape[0]), shape[0]),
        padded(top(by_column, shape[1]), shape[1]),
    )
    return Picks.of(scores, rows, columns)


def marginals(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of every row and of every column, fp64, in one pass of bounded memory."""
    by_row = scores.new_zeros(scores.shape[0], dtype=torch.float64)
    by_column = scores.new_zeros(scores.shape[1], dtype=torch.float64)
    per_band = max(1, BAND // scores.shape[1])
    for start in range(0, scores.shape[0], per_band):
        band = scores[start : start + per_band].double()
        by_row[start : start + per_band] = band.sum(dim=1)
        by_column += band.sum(dim=0)
    return by_row, by_column


def top(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest scores, ascending; ties keep lower indices.

    All of them where there are fewer than `count`.
    """
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def padded(indices: Tensor, count: int) -> Tensor:
    """Append `NOTHING` up to `count` indices."""
    return torch.nn.functional.pad(indices, (0, count - len(indices)), value=NOTHING)


def gathered(matrix: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return a new matrix of the given rows and columns, zero where an index is `NOTHING`."""
    rows, columns = rows.to(matrix.device), columns.to(matrix.device)
    picked = matrix.index_select(0, rows.clamp(min=0)).index_select(1, columns.clamp(min=0))
    picked[rows == NOTHING] = 0
    picked[:, columns == NOTHING] = 0
    return picked

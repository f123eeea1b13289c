"""The contiguous window of a matrix that holds the largest sum (arXiv 2310.11451, section 3).

Sums are taken over a summed-area table of integers: the scores are scaled by a power of two and
rounded so that their total stays below 2**61. Integer sums do not depend on the order or number
of threads, so equal windows tie exactly and the choice is the same on every machine. Scores
above 2**-37 of the total keep all 24 bits of single precision.
"""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from pktkit.errors import NonFiniteError, UsageError

BAND = 1 << 22
"""Matrix elements or window positions handled at a time."""

_TOTAL_BITS = 61
_LARGEST_EXPONENT = 1023


@attrs.frozen
class Window:
    """A contiguous window of a matrix.

    Arguments:
        row, column: offset of its first element.
        height, width: size of what the matrix covers; smaller than the shape asked for where
            the matrix is smaller.
        share: share of the matrix's total score inside the window, 0 to 1; 0 when the total is.
    """

    row: int
    column: int
    height: int
    width: int
    share: float

    def cut(self, matrix: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return the window of a matrix, padded with zeros below and to the right.

        Arguments:
            matrix: `[rows, columns]`, of the shape the window was found in.
            shape: size of the result.

        Returns:
            A view where nothing is padded, else a new tensor.
        """
        inside = matrix[self.row : self.row + self.height, self.column : self.column + self.width]
        missing = (0, shape[1] - self.width, 0, shape[0] - self.height)
        return torch.nn.functional.pad(inside, missing) if any(missing) else inside


def best_window(
    scores: Tensor, shape: tuple[int, int], *, steps: tuple[int, int] = (1, 1)
) -> Window:
    """Return the window with the largest sum; the first in row-major order wins ties.

    Where `shape` exceeds the matrix in a dimension, the whole dimension is taken.

    Arguments:
        scores: `[rows, columns]`, not negative.
        shape: height and width of the window.
        steps: offsets must be multiples of these, e.g. of a head's rows.

    Raises:
        NonFiniteError: a score is not finite.
        UsageError: an empty shape, or scores that are no matrix.
    """
    height, width = _covered(scores, shape)
    table = summed_area(scores)
    best, place = -1, (0, 0)
    rows, columns = range(0, table.shape[0] - height, steps[0]), slice(0, -width, steps[1])
    shifted = slice(width, None, steps[1])
    per_band = max(1, BAND // table.shape[1])
    for start in range(0, len(rows), per_band):
        band = rows[start : start + per_band]
        top = table[band.start : band.stop : band.step]
        bottom = table[band.start + height : band.stop + height : band.step]
        sums = bottom[:, shifted] - bottom[:, columns]
        sums -= top[:, shifted]
        sums += top[:, columns]
        index = int(sums.argmax())
        found = int(sums.flatten()[index])
        if found > best:
            best = found
            place = (band[index // sums.shape[1]], index % sums.shape[1] * steps[1])
    return _window(table, place, height, width)


def random_window(scores: Tensor, shape: tuple[int, int], *, generator: torch.Generator) -> Window:
    """Return a uniformly drawn window, the control for `best_window`.

    Arguments and errors as for `best_window`.
    """
    height, width = _covered(scores, shape)
    table = summed_area(scores)
    row, column = (
        int(torch.randint(size, (), generator=generator))
        for size in (table.shape[0] - height, table.shape[1] - width)
    )
    return _window(table, (row, column), height, width)


def _covered(scores: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Return how much of a window's shape the matrix can fill."""
    if scores.dim() != 2 or min(scores.shape) < 1 or min(shape) < 1:
        raise UsageError(
            f"a window needs a non-empty matrix and shape, got {tuple(scores.shape)} and {shape}."
        )
    return min(shape[0], scores.shape[0]), min(shape[1], scores.shape[1])


def _window(table: Tensor, place: tuple[int, int], height: int, width: int) -> Window:
    """Describe the window of a summed-area table at an offset."""
    (top, left), total = place, int(table[-1, -1])
    bottom, right = top + height, left + width
    inside = int(table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left])
    return Window(top, left, height, width, inside / total if total else 0.0)


def summed_area(scores: Tensor) -> Tensor:
    """Return `[rows + 1, columns + 1]` int64, entry (i, j) the scaled sum of `scores[:i, :j]`.

    Raises:
        NonFiniteError: a score is not finite.
    """
    total = float(scores.sum(dtype=torch.float64))
    if not math.isfinite(total):
        raise NonFiniteError("the sensitivities are not finite. Try --dtype float32.")
    exponent = _TOTAL_BITS - math.frexp(total)[1] if total > 0 else 0
    scale = 2.0 ** min(exponent, _LARGEST_EXPONENT)
    rows, columns = scores.shape
    table = torch.zeros(rows + 1, columns + 1, dtype=torch.int64, device=scores.device)
    per_band = max(1, BAND // columns)
    for start in range(0, rows, per_band):
        band = scores[start : start + per_band].double().mul_(scale).round_()
        inside = table[start + 1 : start + 1 + per_band, 1:]
        inside.copy_(band.to(torch.int64).cumsum_(dim=1))
        inside[0] += table[start, 1:]
        inside.cumsum_(dim=0)
    return table

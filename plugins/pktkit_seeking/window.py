"""The contiguous window of a matrix that holds the largest sum (arXiv 2310.11451, section 3)."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

from pktkit.errors import NonFiniteError, UsageError
from pktkit_seeking.search import first_of_largest, largest_by_far


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

    def described(self) -> dict[str, float]:
        """Return offset, size and share for diagnostics."""
        return attrs.asdict(self)


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
    covered, total = _covered(scores, shape), finite_total(scores)
    place = largest_by_far(scores, covered, steps, total)
    if place is None:  # equal windows, or too close for rounded sums
        place = first_of_largest(scores, covered, steps, total)
    return _window(scores, place, covered, total)


def random_window(scores: Tensor, shape: tuple[int, int], *, generator: torch.Generator) -> Window:
    """Return a uniformly drawn window, the control for `best_window`.

    Arguments and errors as for `best_window`.
    """
    covered = _covered(scores, shape)
    row, column = (
        int(torch.randint(size - side + 1, (), generator=generator))
        for size, side in zip(scores.shape, covered, strict=True)
    )
    return _window(scores, (row, column), covered, finite_total(scores))


def finite_total(scores: Tensor) -> float:
    """Return the sum of non-negative scores.

    Raises:
        NonFiniteError: a score is not finite.
    """
    total = float(scores.sum(dim=-1).sum(dtype=torch.float64))
    if not math.isfinite(total):  # perhaps only because single precision overflowed
        total = float(scores.sum(dtype=torch.float64))
    if not math.isfinite(total):
        raise NonFiniteError("the sensitivities are not finite. Try --dtype float32.")
    return total


def _covered(scores: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Return how much of a window's shape the matrix can fill."""
    if scores.dim() != 2 or min(scores.shape) < 1 or min(shape) < 1:
        raise UsageError(
            f"a window needs a non-empty matrix and shape, got {tuple(scores.shape)} and {shape}."
        )
    return min(shape[0], scores.shape[0]), min(shape[1], scores.shape[1])


def _window(
    scores: Tensor, place: tuple[int, int], covered: tuple[int, int], total: float
) -> Window:
    """Describe the window of a matrix at an offset."""
    (row, column), (height, width) = place, covered
    if covered == tuple(scores.shape):
        return Window(row, column, height, width, 1.0 if total else 0.0)
    inside = finite_total(scores[row : row + height, column : column + width])
    return Window(row, column, height, width, inside / total if total else 0.0)

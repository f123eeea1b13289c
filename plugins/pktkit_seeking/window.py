"""The contiguous window of a matrix that holds the largest sum (arXiv 2310.11451, section 3).

The scores are scaled by a power of two and rounded to integers whose total stays below 2**61.
Integer sums do not depend on the order or number of threads, so equal windows tie exactly and the
choice is the same on every machine. Scores above 2**-36 of the total keep all 24 bits of single
precision.

A summed-area table is not needed, because every window has the same height: the sums of its
columns are kept while it slides down, one row entering and one leaving, and a prefix sum along
them gives all windows of that height at once. The matrix is read twice and nothing of its size is
written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs
import torch
from torch import Tensor

from pktkit.errors import NonFiniteError, UsageError

BAND = 1 << 18
"""Matrix elements handled at a time; two megabytes of integers stay in the cache."""

_TOTAL_BITS = 60
_LARGEST_SINGLE = 2.0**127
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
    height, width = _covered(scores, shape)
    best, place = -1, (0, 0)
    for offset, columns in _column_sums(scores, height, steps[0]):
        prefix = torch.nn.functional.pad(columns.cumsum(dim=1), (1, 0))
        sums = (prefix[:, width:] - prefix[:, : prefix.shape[1] - width])[:, :: steps[1]]
        index = int(sums.argmax())
        found = int(sums.flatten()[index])
        if found > best:
            best = found
            row, column = divmod(index, sums.shape[1])
            place = (offset + row * steps[0], column * steps[1])
    return _window(scores, place, height, width)


def random_window(scores: Tensor, shape: tuple[int, int], *, generator: torch.Generator) -> Window:
    """Return a uniformly drawn window, the control for `best_window`.

    Arguments and errors as for `best_window`.
    """
    height, width = _covered(scores, shape)
    row, column = (
        int(torch.randint(size - covered + 1, (), generator=generator))
        for size, covered in zip(scores.shape, (height, width), strict=True)
    )
    return _window(scores, (row, column), height, width)


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


def _window(scores: Tensor, place: tuple[int, int], height: int, width: int) -> Window:
    """Describe the window of a matrix at an offset."""
    (row, column), total = place, finite_total(scores)
    inside = finite_total(scores[row : row + height, column : column + width])
    return Window(row, column, height, width, inside / total if total else 0.0)


def _column_sums(scores: Tensor, height: int, step: int) -> Iterator[tuple[int, Tensor]]:
    """Yield offsets with the columns' sums over `height` rows from there on, a band at a time.

    Yields:
        a row offset, and int64 `[offsets, columns]` for it and the following multiples of `step`.
    """
    scale, (rows, columns) = _scale(finite_total(scores)), scores.shape
    per_band = max(1, BAND // columns)
    sums = scores.new_zeros(columns, dtype=torch.int64)
    for start in range(0, height, per_band):
        sums += _integers(scores[start : min(height, start + per_band)], scale).sum(dim=0)
    yield 0, sums[None]
    gathered: list[Tensor] = []
    for start in range(0, rows - height, per_band):
        stop = min(rows - height, start + per_band)
        leaving = _integers(scores[start:stop], scale)
        entering = _integers(scores[start + height : stop + height], scale)
        for i, change in enumerate(entering.sub_(leaving)):
            sums += change
            if (start + i + 1) % step == 0:
                gathered.append(sums.clone())
        if gathered:
            last = stop // step * step
            yield last - (len(gathered) - 1) * step, torch.stack(gathered)
            gathered = []


def _scale(total: float) -> float:
    """Return the power of two that scores are multiplied by."""
    exponent = _TOTAL_BITS - math.frexp(total)[1] if total > 0 else 0
    return 2.0 ** min(exponent, _LARGEST_EXPONENT)


def _integers(scores: Tensor, scale: float) -> Tensor:
    """Return scaled scores as int64; the product is exact, so only the rounding loses anything."""
    single = scores.dtype == torch.float32 and scale <= _LARGEST_SINGLE
    scaled = scores * scale if single else scores.double() * scale
    return scaled.round_().to(torch.int64)

"""Where the window with the largest sum is, without a table of the matrix's size.

Two searches. `largest_by_far` adds in fp64 and knows how far rounding can reach; where one window
leads by more than that, and with real scores one nearly always does, it is the answer.
`first_of_largest` settles the rest: scores are scaled by a power of two and rounded to integers
whose total stays below 2**61. Integer sums do not depend on the order or number of threads, so
equal windows tie exactly and the choice is the same on every machine. Scores above 2**-36 of the
total keep all 24 bits of single precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

Place = tuple[int, int]

BAND = 1 << 18
"""Matrix elements handled at a time; two megabytes of numbers stay in the cache."""

_UNIT = 2.0**-53
_OCCURRENCES = 8
_TOTAL_BITS = 60
_LARGEST_SINGLE = 2.0**127
_LARGEST_EXPONENT = 1023


def largest_by_far(scores: Tensor, covered: Place, steps: Place, total: float) -> Place | None:
    """Return where the window is whose sum exceeds all others, if fp64 sums can tell.

    Arguments:
        scores: `[rows, columns]`, finite and not negative.
        covered: height and width of the window, at most those of the matrix.
        steps: offsets are multiples of these.
        total: sum of all scores.

    Returns:
        The offsets, or None where another window comes as close as rounding errors reach.
    """
    (rows, columns), (height, width) = scores.shape, covered
    if rows - height < steps[0] and columns - width < steps[1]:
        return 0, 0
    # A sum of n terms is off by at most n units of their absolute sum. No score enters more than
    # eight times, and both sides of a comparison may be off.
    slack = 2 * (rows + 3 * columns) * _UNIT * _OCCURRENCES * total
    best, place, clear = -math.inf, (0, 0), False
    for offset, sums in _relative_sums(scores, height, width):
        ahead = -offset % steps[0]
        sums = sums[ahead :: steps[0], :: steps[1]]
        found = float(sums.max()) if len(sums) else -math.inf
        if found < best - slack:
            continue
        clear = found > best + slack and int((sums >= found - slack).sum()) == 1
        if found > best:
            row, column = divmod(int(sums.argmax()), sums.shape[1])
            best, place = found, (offset + ahead + row * steps[0], column * steps[1])
    return place if clear else None


def _relative_sums(scores: Tensor, height: int, width: int) -> Iterator[tuple[int, Tensor]]:
    """Yield row offsets with the sums of all windows from there on, less the first window's.

    What all windows share is not read: between windows side by side one column enters and one
    leaves, between windows below each other one row, and of the difference of two such rows again
    only the ends.

    Yields:
        a row offset, and fp64 `[offsets, columns - width + 1]` for it and the following ones.
    """
    rows, columns = scores.shape
    spare = columns - width
    first = scores.new_zeros(spare + 1, dtype=torch.float64)
    per_band = max(1, BAND // (spare + 1))
    for start in range(0, height, per_band):
        band = scores[start : min(height, start + per_band)]
        first[1:] += band[:, width:].sum(dim=0, dtype=torch.float64)
        first[1:] -= band[:, :spare].sum(dim=0, dtype=torch.float64)
    last = first.cumsum(dim=0)
    yield 0, last[None]
    per_band = max(1, BAND // columns)
    for start in range(0, rows - height, per_band):
        stop = min(rows - height, start + per_band)
        change = scores[start + height : stop + height].to(torch.float64, copy=True)
        change -= scores[start:stop]
        sums = change.new_empty(stop - start, spare + 1)
        torch.sum(change[:, :width], dim=1, out=sums[:, 0])
        torch.sub(change[:, width:], change[:, :spare], out=sums[:, 1:])
        sums = sums.cumsum(dim=1)
        for row in sums:
            last = row.add_(last)
        yield start + 1, sums


def first_of_largest(scores: Tensor, covered: Place, steps: Place, total: float) -> Place:
    """Return where the first of the windows with the largest sum is, by integer sums.

    Arguments as for `largest_by_far`.
    """
    (height, width), scale = covered, _scale(total)
    best, place = -1, (0, 0)
    for offset, columns in _column_sums(scores, height, steps[0], scale):
        prefix = torch.nn.functional.pad(columns.cumsum(dim=1), (1, 0))
        sums = (prefix[:, width:] - prefix[:, : prefix.shape[1] - width])[:, :: steps[1]]
        index = int(sums.argmax())
        found = int(sums.flatten()[index])
        if found > best:
            best = found
            row, column = divmod(index, sums.shape[1])
            place = (offset + row * steps[0], column * steps[1])
    return place


def _column_sums(
    scores: Tensor, height: int, step: int, scale: float
) -> Iterator[tuple[int, Tensor]]:
    """Yield offsets with the columns' sums over `height` rows from there on, a band at a time.

    Yields:
        a row offset, and int64 `[offsets, columns]` for it and the following multiples of `step`.
    """
    rows, columns = scores.shape
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

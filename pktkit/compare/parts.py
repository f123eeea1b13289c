"""A comparison cut into parts that run on machines of their own and are merged afterwards."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from pktkit.errors import UsageError
from pktkit.outcomes import CellKey


@attrs.frozen
class Part:
    """The i-th of n parts of a comparison's cells.

    Arguments:
        number: 1-based.
        of: how many parts there are.
        cells: those of this part, in the comparison's order.
    """

    number: int
    of: int
    cells: tuple[CellKey, ...]

    @classmethod
    def parse(cls, text: str, cells: Sequence[CellKey]) -> Part:
        """Read `i/n` and deal out the cells.

        They are dealt strategy by strategy, so that every part gets its share of the slow ones
        and of the quick ones. Each cell is in exactly one of the parts.

        Raises:
            UsageError: not two numbers with `1 <= i <= n`, or a part without cells.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(
                "--cell must be i/n with i from 1 to n, such as 1/4 for the first of four parts, "
                f"got '{text}'."
            )
        number, of = int(found[1]), int(found[2])
        by_strategy = sorted(range(len(cells)), key=lambda place: (cells[place].strategy, place))
        dealt = sorted(by_strategy[number - 1 :: of])
        if not dealt:
            raise UsageError(
                f"--cell {number}/{of}: the comparison has {len(cells)} cells, so this part has "
                f"none. Cut it into at most {len(cells)} parts."
            )
        return cls(number, of, tuple(cells[place] for place in dealt))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

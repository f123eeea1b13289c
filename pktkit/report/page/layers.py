"""Layer maps: which source blocks each target block was paired with, drawn and in words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import attrs

from pktkit.report.page import canvas
from pktkit.report.page.elements import figure, folded, heading, multiples, note
from pktkit.report.records import Comparison

WIDTH, LEFT, HEIGHT = 320.0, 44.0, 124.0
SOURCE, TARGET, BLOCK = 18.0, 90.0, 16.0
"""Where both rows of blocks start, and how high a block is."""

LONGEST_CAPTION = 60
"""Letters of a map up to which it is written out below its picture; longer ones are folded."""

_LINK = re.compile(r"(\d+(?:\+\d+)*)→(\d+)")
_DEPTHS = re.compile(r"\((\d+)→(\d+) blocks\)$")


@attrs.frozen
class Drawn:
    """A layer map as its text says it.

    Arguments:
        method: what made it.
        links: source blocks by target block.
        source_blocks, target_blocks: depths; as far as the links reach, where the text has none.
    """

    method: str
    links: tuple[tuple[tuple[int, ...], int], ...]
    source_blocks: int
    target_blocks: int

    @classmethod
    def read(cls, text: str) -> Drawn | None:
        """Read `LayerMap.described`; None where it is not one."""
        depths = _DEPTHS.search(text)
        method, _, rest = (text[: depths.start()] if depths else text).rpartition(": ")
        links = tuple(
            (tuple(map(int, sources.split("+"))), int(target))
            for sources, target in _LINK.findall(rest)
        )
        if not links:
            return None
        used_source = 1 + max(block for sources, _ in links for block in sources)
        used_target = 1 + max(target for _, target in links)
        source, target = map(int, depths.groups()) if depths else (used_source, used_target)
        return cls(method, links, max(source, used_source), max(target, used_target))


def layer_maps(comparison: Comparison) -> str:
    """Draw each map once, with the rows that used it; empty without any."""
    users: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.layer_map:
            users.setdefault(row.layer_map, []).append(row.strategy)
    if not users:
        return ""
    drawn = [_figure(text, names) for text, names in users.items()]
    words = (
        "Which source blocks each target block was paired with, under the first seed. Blocks "
        "without a line were not used."
    )
    return f"{heading('Layer maps')}\n{note(words)}\n{multiples(drawn)}"


def _figure(text: str, strategies: Sequence[str]) -> str:
    named = ", ".join(strategies)
    found = Drawn.read(text)
    if found is None:
        return note(f"{named}: {text}")
    if len(text) <= LONGEST_CAPTION:
        return figure(plot(found, text), f"{named} · {text}")
    picture = plot(found, text) + folded("in words", note(text))
    return figure(picture, f"{named} · {found.method}")


def plot(found: Drawn, text: str) -> str:
    """Draw the source's blocks above the target's, first block left, with a line per link."""
    source = _centres(found.source_blocks)
    target = _centres(found.target_blocks)
    used_source = {block for sources, _ in found.links for block in sources}
    parts = [
        canvas.text(0, SOURCE + 12, "source", "soft"),
        canvas.text(0, TARGET + 12, "target", "soft"),
    ]
    for sources, block in found.links:
        parts += [
            canvas.line(source[one], SOURCE + BLOCK, target[block], TARGET, "link")
            for one in sources
        ]
    parts += _blocks(source, SOURCE, used_source, SOURCE - 5)
    parts += _blocks(target, TARGET, {block for _, block in found.links}, TARGET + BLOCK + 13)
    return canvas.picture(
        parts,
        width=WIDTH,
        height=HEIGHT,
        title=f"Layer map {found.method}",
        description=f"{text}. {found.source_blocks} source blocks, {found.target_blocks} target "
        "blocks.",
    )


def _centres(blocks: int) -> list[float]:
    size = (WIDTH - LEFT) / blocks
    return [LEFT + size * (block + 0.5) for block in range(blocks)]


def _blocks(centres: Sequence[float], top: float, used: set[int], beside: float) -> list[str]:
    """Draw a row of blocks, with their numbers inside or, where they are too narrow, at `beside`.

    Where not every number has room, some are left out.
    """
    size = (WIDTH - LEFT) / len(centres)
    width = min(28.0, 0.84 * size)
    room = canvas.LETTER * (len(str(len(centres) - 1)) + 0.6)
    parts = []
    for block, x in enumerate(centres):
        kind = "used" if block in used else "unused"
        parts.append(canvas.box(x - width / 2, top, width, BLOCK, kind))
        if room <= size:
            parts.append(canvas.text(x, top + 12, str(block), f"on {kind}", "middle"))
        elif block % math.ceil(1.5 * room / size) == 0:
            parts.append(canvas.text(x, beside, str(block), "soft", "middle"))
    return parts

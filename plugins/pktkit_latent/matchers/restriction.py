"""Which target blocks a matcher may link: all, some by index, or those beyond a share of depth."""

from __future__ import annotations

import attrs
from attrs import validators

from pktkit.errors import UsageError
from pktkit.options import option

_ROUNDING = 1e-9


@attrs.frozen
class RestrictionOptions:
    """Settings that every matcher of more than one target block has.

    A restriction leaves links out and changes none: a block that stays linked keeps the source
    blocks that it has without the restriction.
    """

    blocks: tuple[int, ...] = option((), "Target blocks to link, 0-based; empty for all.")
    from_depth: float = option(
        0.0,
        "Link only target blocks beyond this share of the target's depth; 0.5 for the later half.",
        validator=validators.and_(validators.ge(0), validators.lt(1)),
    )


def linked_blocks(options: RestrictionOptions, target_blocks: int) -> tuple[int, ...]:
    """Return the target blocks that may be linked, 0-based and ascending; never empty.

    Block t of `L_tgt` ends at the share `(t + 1) / L_tgt` of the depth and is linked if that lies
    beyond `from_depth`; of an odd number of blocks, the later half includes the middle one.

    Arguments:
        options: the restriction; `blocks` and `from_depth` must both let a block through.
        target_blocks: the target's depth.

    Raises:
        UsageError: a block is not one of the target's, or no block is left.
    """
    for block in options.blocks:
        if not 0 <= block < target_blocks:
            raise UsageError(
                f"blocks names target block {block}, but the target has {target_blocks} blocks: "
                f"expected 0..{target_blocks - 1}."
            )
    first = min(int(options.from_depth * target_blocks + _ROUNDING), target_blocks - 1)
    named = sorted(set(options.blocks)) or range(target_blocks)
    linked = tuple(block for block in named if block >= first)
    if not linked:
        raise UsageError(
            f"no target block is left to link: blocks names {', '.join(map(str, named))}, and "
            f"from_depth {options.from_depth:g} of {target_blocks} blocks begins at block {first}. "
            "Lower from_depth or name a later block."
        )
    return linked

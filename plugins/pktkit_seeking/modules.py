"""Which kinds of matrices a low-rank start is made for: the families' and the ends' say in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pktkit.errors import UsageError, unknown_name
from pktkit.families import PROJECTIONS

if TYPE_CHECKING:
    import attrs

    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel, ModelPair

EMBED, HEAD = "embed", "head"
MODULES = (*PROJECTIONS, EMBED, HEAD)
"""What the published method extracts from."""

Shape = tuple[int, int]


def known_modules(instance: Any, attribute: attrs.Attribute[Any], value: Sequence[str]) -> None:
    """Refuse names that no family has; an attrs validator.

    Raises:
        UsageError: with the closest name that exists.
    """
    for name in value:
        if name not in MODULES:
            raise unknown_name("module", name, MODULES)


def target_obstacles(target: LoadedModel) -> dict[str, str]:
    """Return, by module that the target cannot start from, the reason."""
    found = _missing(target, "target")
    if target.anatomy.tied:
        reason = (
            f"target '{target.name}' ties embedding and LM head, and a start on one of them would "
            "change both"
        )
        found |= {EMBED: reason, HEAD: reason}
    return found


def pair_obstacles(pair: ModelPair) -> dict[str, str]:
    """Return, by module that cannot be extracted from source to target, the reason."""
    found = {} if pair.tokenizers.same else dict.fromkeys((EMBED, HEAD), _DIFFERENT_TOKENS)
    return found | _missing(pair.source, "source") | target_obstacles(pair.target)


_DIFFERENT_TOKENS = "the tokenizers differ, so that equal rows do not mean equal tokens"


def chosen_modules(asked: Sequence[str], obstacles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the modules to work on, in canonical order.

    Arguments:
        asked: names as the user wrote them; empty for all that are possible.
        obstacles: reason by module that is not possible.

    Raises:
        UsageError: a module was asked for by name and is not possible, or none is.
    """
    possible = tuple(name for name in MODULES if name not in obstacles)
    for name in asked:
        if name in obstacles:
            raise UsageError(
                f"module '{name}' was asked for, but {obstacles[name]}. "
                f"Possible here: {', '.join(possible)}."
            )
    return tuple(name for name in possible if not asked or name in asked)


def target_shapes(
    anatomy: Anatomy, blocks: Iterable[int], modules: Sequence[str]
) -> dict[tuple[int, str], Shape]:
    """Return `[out, in]` of the target's matrices by block and module; no weight is copied.

    The embedding is `[width, V]` in block -1, the LM head `[V, width]` in block `n_blocks`.
    """
    shapes = {}
    for block in blocks:
        for name, projection in anatomy.projections(block).items():
            if name in modules:
                stored = anatomy.model.get_parameter(projection.parameter)
                rows, columns = stored.T.shape if projection.transposed else stored.shape
                if projection.rows is not None:
                    rows = rows_of(name, anatomy)
                shapes[block, name] = (int(rows), int(columns))
    if EMBED in modules:
        vocabulary, width = anatomy.embedding.weight.shape
        shapes[-1, EMBED] = (int(width), int(vocabulary))
    if HEAD in modules:
        shapes[anatomy.n_blocks, HEAD] = (anatomy.vocab_rows, anatomy.width)
    return shapes


def rows_of(name: str, anatomy: Anatomy) -> int:
    """Return the rows of one of q, k and v."""
    return anatomy.head_dim * (anatomy.n_heads if name == "q" else anatomy.n_kv_heads)


def require_rank(rank: int, shapes: Mapping[tuple[int, str], Shape]) -> None:
    """Refuse a rank that a matrix does not have.

    Raises:
        UsageError: the rank exceeds the smaller side of a matrix, or there is none.
    """
    if not shapes:
        raise UsageError("there is nothing to extract: the layer map links no block.")
    smallest = min(shapes, key=lambda place: min(shapes[place]))
    block, name = smallest
    if rank > min(shapes[smallest]):
        where = name if name in (EMBED, HEAD) else f"{name} of block {block}"
        out, into = shapes[smallest]
        raise UsageError(
            f"rank {rank} is above the smaller side of the target's {where}, {out}×{into}. "
            f"Set aligner.rank to {min(out, into)} or less, or leave '{name}' out of "
            "aligner.modules.",
            needs=f"aligner.rank={min(out, into)} or less",
        )


def _missing(model: LoadedModel, role: str) -> dict[str, str]:
    known = model.anatomy.projection_names
    return {
        name: f"{role} '{model.name}' of family '{model.anatomy.family}' has no such projection"
        for name in PROJECTIONS
        if name not in known
    }

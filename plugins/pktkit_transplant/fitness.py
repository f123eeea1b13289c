"""Whether a source block can be said in the target's terms at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pktkit.errors import PairIncompatibleError, UsageError, unknown_name
from pktkit.families import PROJECTIONS

if TYPE_CHECKING:
    from pktkit.families import Anatomy


def require_same_mechanism(source: Anatomy, target: Anatomy, modules: Iterable[str]) -> None:
    """Refuse projections whose halves compute something else in the two models.

    Raises:
        PairIncompatibleError: names what differs, and the modules that remain.
    """
    wanted = [name for name in PROJECTIONS if name in set(modules)]
    for what, affected in differences(source, target):
        if set(affected) & set(wanted):
            bad = {name for _, names in differences(source, target) for name in names}
            rest = [name for name in wanted if name not in bad]
            advice = (
                f"Leave them out: --set injector.modules={','.join(rest)}."
                if rest
                else "No module remains; take another strategy for this pair."
            )
            raise PairIncompatibleError(
                f"{what}, so that {', '.join(affected)} of family '{source.family}' have no "
                f"counterpart by a change of basis in family '{target.family}'. {advice}",
                needs=f"injector.modules={','.join(rest)}" if rest else "",
            )


def differences(source: Anatomy, target: Anatomy) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what the two models' blocks do differently, and the projections it concerns."""
    ours, theirs = source.norms(0), target.norms(0)
    for norm, names, what in (
        ("q", ("q", "k"), "normalises queries and keys"),
        ("post_attention", ("o",), "normalises what attention writes"),
        ("post_ffn", ("down",), "normalises what the feed-forward layer writes"),
    ):
        if (norm in ours) != (norm in theirs):
            who = "the source" if norm in ours else "the target"
            yield f"only {who} {what}", names
    gated = ["gate" in each.projection_names for each in (source, target)]
    if gated[0] != gated[1]:
        yield f"only the {'source' if gated[0] else 'target'} gates", ("gate", "up", "down")
    functions = activation(source), activation(target)
    if functions[0] != functions[1]:
        yield (
            f"the feed-forward layers compute {functions[0]} and {functions[1]}",
            ("gate", "up", "down"),
        )


def activation(anatomy: Anatomy) -> str:
    """Return the activation function's name; the approximations of GELU count as one."""
    config: Any = anatomy.model.config
    names = ("hidden_activation", "hidden_act", "activation_function")
    found = next((getattr(config, n) for n in names if getattr(config, n, None)), "none")
    return "gelu" if str(found).startswith("gelu") else str(found)


def require_modules(target: Anatomy, modules: Iterable[str]) -> None:
    """Refuse a projection that the target's family lacks; all kinds together mean those it has.

    Raises:
        UsageError: names the family and its projections.
    """
    asked = tuple(modules)
    for name in asked:
        if name not in target.projection_names and set(asked) != set(PROJECTIONS):
            raise unknown_name(f"module of family '{target.family}'", name, target.projection_names)


def require_rank(target: Anatomy, modules: Iterable[str], rank: int | None) -> None:
    """Refuse a rank above what a projection can have.

    Raises:
        UsageError: gives the rank, the matrix and the largest rank that fits all modules.
    """
    shapes = {
        name: projection.shape(target.model)
        for name, projection in target.projections(0).items()
        if name in set(modules)
    }
    if rank is None or not shapes:
        return
    name = min(shapes, key=lambda each: min(shapes[each]))
    if rank > min(shapes[name]):
        rows, columns = shapes[name]
        raise UsageError(
            f"rank {rank} is above what the {rows} × {columns} matrix of '{name}' can have, "
            f"{min(shapes[name])}. Set --set injector.rank={min(shapes[name])} or less, or "
            "--set injector.rank=null to keep updates whole.",
            needs=f"injector.rank={min(shapes[name])} or less",
        )

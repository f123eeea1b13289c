"""What a component returned, checked where the component can still be named.

A matrix of the wrong shape or a NaN that a plugin returns would otherwise surface steps later, in
another plugin's code. Each check looks at one value and raises with names, shapes and figures.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pktkit.errors import NonFiniteError, StrategyError, UsageError, did_you_mean
from pktkit.outcomes import ItemScore
from pktkit.tracing import at_block
from pktkit.values import Alignment, Injection, LayerMap, Origin, Space

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.pair import LoadedModel, ModelPair
    from pktkit.tasks.base import Item
    from pktkit.values import TargetStates

T = TypeVar("T")

PROBE_TOKENS = 4
"""States in the batch that every map is tried on."""

_WEIGHT_TOLERANCE = 1e-3


def checked_layer_map(value: Any, pair: ModelPair) -> LayerMap:
    """Return a matcher's result, if it is a layer map of this pair.

    Raises:
        StrategyError: it is something else, or made for other depths.
        NonFiniteError: a weight or score is not finite.
    """
    layer_map = _of_type(value, LayerMap)
    depths = {
        "source": (layer_map.source_blocks, pair.source.anatomy.n_blocks),
        "target": (layer_map.target_blocks, pair.target.anatomy.n_blocks),
    }
    for side, (said, has) in depths.items():
        if said != has:
            raise StrategyError(
                f"its layer map is for a {side} of {said} blocks, "
                f"'{getattr(pair, side).name}' has {has}."
            )
    for link in layer_map.links:
        with at_block(link.target, link.sources):
            _require_weights(link.weights)
    _require_numbers("scores of its layer map", layer_map.scores)
    return layer_map


def checked_alignment(value: Any, pair: ModelPair) -> Alignment:
    """Return an aligner's result, if everything in it fits this pair.

    The map of every target block is called once with `PROBE_TOKENS` random states, in single
    precision as injectors call it. Sparse updates that depend on the item are checked when an
    injector asks for them.

    Raises:
        StrategyError: a type, block, name or shape does not fit; expected and got are given.
        NonFiniteError: a mapped state or an update is not finite.
    """
    alignment = _of_type(value, Alignment)
    checked_layer_map(alignment.layer_map, pair)
    if alignment.target_states is not None:
        _check_states(alignment.target_states, pair)
    for low_rank in alignment.low_rank:
        with at_block(low_rank.block):
            _check_low_rank(low_rank, pair.target)
    _check_dense(alignment.dense, pair.target)
    _check_sparse(alignment.sparse, pair.target)
    if alignment.sparse_at is None:
        return alignment
    given = alignment.sparse_at

    def sparse_at(item: EncodedItem) -> Sequence[Any]:
        updates = tuple(given(item))
        _check_sparse(updates, pair.target)
        return updates

    return attrs.evolve(alignment, sparse_at=sparse_at)


def checked_injection(value: Any) -> Injection:
    """Return an injector's result, if it is one.

    Raises:
        StrategyError: it is something else, or counts what cannot be counted.
    """
    injection = _of_type(value, Injection)
    for name in ("steps", "tokens", "trainable_parameters"):
        count = getattr(injection, name)
        if not isinstance(count, numbers.Integral) or count < 0:
            raise StrategyError(f"its '{name}' must be a whole number from 0, got {count!r}.")
    return injection


def checked_scores(value: Any, items: Sequence[Item]) -> tuple[ItemScore, ...]:
    """Return an evaluator's result, if it is one finite score per item, in the items' order.

    Raises:
        StrategyError: a score is missing, of another type or of another item.
        NonFiniteError: a score is not finite.
    """
    try:
        scores = tuple(value)
    except TypeError as error:
        raise StrategyError(f"it returned {_type(value)}, expected item scores.") from error
    if len(scores) != len(items):
        raise StrategyError(f"it returned {len(scores)} scores for {len(items)} items.")
    for position, (score, item) in enumerate(zip(scores, items, strict=True)):
        if not isinstance(score, ItemScore):
            raise StrategyError(f"score {position} is {_type(score)}, expected ItemScore.")
        if score.item != item.id:
            raise StrategyError(
                f"score {position} is of item '{score.item}', expected '{item.id}'; scores must "
                "be in the order of the split."
            )
        if not math.isfinite(score.score):
            raise NonFiniteError(f"the score of item '{item.id}' is {score.score}.")
    return scores


def _of_type(value: Any, expected: type[T]) -> T:
    if not isinstance(value, expected):
        raise StrategyError(f"it returned {_type(value)}, expected {expected.__name__}.")
    return value


def _type(value: Any) -> str:
    return type(value).__name__


def _require_weights(weights: Sequence[float]) -> None:
    _require_numbers("weights of its layer map", weights)
    if abs(sum(weights) - 1) > _WEIGHT_TOLERANCE:
        raise StrategyError(f"its layer map's weights {tuple(weights)} sum to {sum(weights):.4g}.")


def _require_numbers(what: str, numbers: Sequence[float]) -> None:
    for position, number in enumerate(numbers):
        if not math.isfinite(number):
            raise NonFiniteError(f"the {what} hold {number} at position {position}.")


def _check_states(states: TargetStates, pair: ModelPair) -> None:
    """Try the map of every block on random states of the origin's width."""
    import torch

    target = pair.target.anatomy
    origin = pair.source.anatomy if states.origin is Origin.SOURCE else target
    device = target.head_weight.device
    batch = torch.randn(PROBE_TOKENS, origin.width, generator=torch.Generator().manual_seed(0))
    batch = batch.to(device)
    width = target.width if states.space is Space.TARGET else origin.width
    for block in states.blocks:
        if not 0 <= block < target.n_blocks:
            raise StrategyError(
                f"it gives states for target block {block}; '{pair.target.name}' has blocks "
                f"0..{target.n_blocks - 1}."
            )
        readout = states.readouts.get(block)
        if readout is not None and (readout.width_in, readout.width_out) != (target.width, width):
            raise StrategyError(
                f"the readout of target block {block} leads from {readout.width_in} to "
                f"{readout.width_out}, expected {target.width} to {width}."
            )
        _try_map(states, block, batch, width)


def _try_map(states: TargetStates, block: int, batch: Tensor, width: int) -> None:
    import torch

    origins = {block} if states.origin is Origin.TARGET else states.layer_map.link(block).sources
    devices = [batch.device] if batch.is_cuda else []
    # A map that draws random numbers must not change what the run draws after it.
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        mapped = states.states(block, dict.fromkeys(origins, batch.clone()))
    with at_block(block, tuple(origins) if states.origin is Origin.SOURCE else ()):
        _require_state(mapped, batch, width)


def _require_state(mapped: Any, batch: Tensor, width: int) -> None:
    import torch

    given = f"{_shape(batch)} {batch.dtype} on {batch.device}"
    if not isinstance(mapped, torch.Tensor):
        raise StrategyError(f"its map returned {_type(mapped)} for states {given}.")
    expected = (len(batch), width)
    if tuple(mapped.shape) != expected:
        raise StrategyError(
            f"its map made states of shape {_shape(mapped)} out of {given}; expected "
            f"[tokens, width] = {list(expected)}."
        )
    if mapped.dtype != batch.dtype or mapped.device != batch.device:
        raise StrategyError(
            f"its map made {mapped.dtype} on {mapped.device} out of states {given}; a map keeps "
            "dtype and device."
        )
    _require_finite(mapped, f"its map's states {_shape(mapped)} for random states {_shape(batch)}")


def _check_low_rank(update: Any, target: LoadedModel) -> None:
    """Check `b [out, rank]` and `a [rank, in]` against the projection."""
    name = f"low-rank update of '{update.projection}' in block {update.block}"
    rows, columns = _size(target, update.block, update.projection)
    b, a = _tensor(update.b, f"b of the {name}"), _tensor(update.a, f"a of the {name}")
    rank = b.shape[-1] if b.dim() else 0
    if tuple(b.shape) != (rows, rank) or tuple(a.shape) != (rank, columns):
        raise StrategyError(
            f"the {name} has b {_shape(b)} and a {_shape(a)}; expected [{rows}, rank] and "
            f"[rank, {columns}]."
        )
    if not math.isfinite(update.scale):
        raise NonFiniteError(f"the scale of the {name} is {update.scale}.")
    _require_finite(b, f"b {_shape(b)} of the {name}")
    _require_finite(a, f"a {_shape(a)} of the {name}")


def _check_dense(updates: Sequence[Any], target: LoadedModel) -> None:
    parameters = dict(target.model.named_parameters())
    for update in updates:
        if update.parameter not in parameters:
            raise StrategyError(
                f"it updates '{update.parameter}', which is no parameter of '{target.name}'."
                f"{did_you_mean(update.parameter, parameters)}"
            )
        name = f"new value of parameter '{update.parameter}'"
        value, expected = _tensor(update.value, f"the {name}"), parameters[update.parameter]
        if value.shape != expected.shape:
            raise StrategyError(
                f"the {name} has shape {_shape(value)}, expected {_shape(expected)}."
            )
        _require_finite(value, f"the {name}, {_shape(value)},")


def _check_sparse(updates: Sequence[Any], target: LoadedModel) -> None:
    """Check rows or columns against the projection they are added to."""
    for update in updates:
        name = f"sparse update of '{update.projection}' in block {update.block}"
        with at_block(update.block):
            size = _size(target, update.block, update.projection)
            indices = _tensor(update.indices, f"indices of the {name}")
            values = _tensor(update.values, f"values of the {name}")
            expected = (len(indices), size[1 - update.axis])
            if tuple(values.shape) != expected:
                raise StrategyError(
                    f"the {name} has values {_shape(values)}, expected {list(expected)}: "
                    f"{len(indices)} {'columns' if update.axis else 'rows'} of {list(size)}."
                )
            if (
                len(indices)
                and not 0 <= int(indices.min()) <= int(indices.max()) < (size[update.axis])
            ):
                raise StrategyError(
                    f"the {name} names index {int(indices.max())} (least {int(indices.min())}), "
                    f"expected 0..{size[update.axis] - 1}."
                )
            _require_finite(values, f"values {_shape(values)} of the {name}")


def _size(target: LoadedModel, block: int, name: str) -> tuple[int, int]:
    """Return rows and columns of a matrix, as `[out, in]`, without copying it."""
    from pktkit.families.anatomy import EMBED, HEAD

    anatomy = target.anatomy
    if name == EMBED:
        vocabulary, width = anatomy.embedding.weight.shape
        return int(width), int(vocabulary)
    if name == HEAD:
        return anatomy.vocab_rows, anatomy.width
    try:
        projections = anatomy.projections(block)
    except UsageError as error:
        raise StrategyError(f"it updates '{name}' of '{target.name}': {error}") from error
    if name not in projections:
        known = (*projections, EMBED, HEAD)
        raise StrategyError(
            f"it updates '{name}' in block {block}; family '{anatomy.family}' has "
            f"{', '.join(known)}.{did_you_mean(name, known)}"
        )
    projection = projections[name]
    stored = target.model.get_parameter(projection.parameter)
    rows, columns = reversed(stored.shape) if projection.transposed else stored.shape
    if isinstance(projection.rows, slice):
        rows = len(range(*projection.rows.indices(rows)))
    elif projection.rows is not None:
        rows = len(projection.rows)
    return int(rows), int(columns)


def _tensor(value: Any, what: str) -> torch.Tensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise StrategyError(f"{what} is {_type(value)}, expected a tensor.")
    return value


def _require_finite(tensor: Tensor, what: str) -> None:
    import torch

    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        count = int((~finite).sum())
        raise NonFiniteError(f"{what} hold {count} values that are NaN or infinite.")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)

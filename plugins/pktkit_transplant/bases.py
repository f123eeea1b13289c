"""The change of basis of every linked block, measured on states of the `align` split.

Norms divide a state by its length, so a matrix that reads the normalised stream needs the ratio of
the two lengths beside the map. It is measured on the source's states and their images, at the
positions that predict answers; the source is read with its own tokenizer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import torch
from torch import nn

from pktkit.activations.recording import EMBEDDING
from pktkit.errors import NonFiniteError
from pktkit.probe.readers import forward_states
from pktkit.state_maps import AffineMap
from pktkit.values import Origin
from pktkit_transplant.maps import Change, between_norms, linear_inverse

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.families import Anatomy
    from pktkit.pair import LoadedModel
    from pktkit.probe import Probe
    from pktkit.values import LayerMap

SPLIT = "align"


@attrs.define(eq=False)
class Moments:
    """Running moments of mapped states, fp64, and the ratio of their lengths to the source's."""

    width: int
    tokens: int = 0
    ratios: float = 0.0
    total: Tensor = attrs.field(init=False)
    products: Tensor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.total = torch.zeros(self.width, dtype=torch.float64)
        self.products = torch.zeros(self.width, self.width, dtype=torch.float64)

    def add(self, mapped: Tensor, lengths: Tensor, source_lengths: Tensor) -> None:
        """Add mapped states `[tokens, D_tgt]` and both sides' lengths `[tokens]`."""
        self.tokens += len(mapped)
        self.total += mapped.sum(dim=0).cpu()
        self.products += (mapped.T @ mapped).cpu()
        self.ratios += float((lengths / source_lengths.clamp(min=1e-30)).sum())

    @property
    def mean(self) -> Tensor:
        """Mean state, `[D_tgt]`."""
        return self.total / self.tokens

    @property
    def second(self) -> Tensor:
        """Second moment, not centred, `[D_tgt, D_tgt]`."""
        return self.products / self.tokens

    @property
    def ratio(self) -> float:
        """Mean ratio of the lengths."""
        return self.ratios / self.tokens


def changes(
    maps: Mapping[int, AffineMap], layer_map: LayerMap, probe: Probe, *, ridge: float
) -> Mapping[int, Change]:
    """Return the change of basis around each linked target block that has a map.

    The map of the block's output is its own. The map of its input is that of the block before it
    (for block 0, of the stream before it); where there is none, the block's own.

    Arguments:
        maps: by target block, from the residual stream of the source.
        layer_map: which source block a target block stands for; of several, the main one.
        probe: gives the `align` split and the pair.
        ridge: see `pktkit_transplant.maps.ridge_inverse`.

    Raises:
        NonFiniteError: states are not finite.
    """
    source, target = probe.pair.source, probe.pair.target
    links = {link.target: link.main for link in layer_map.links if link.target in maps}
    maps = scaled(maps, links | {EMBEDDING: EMBEDDING}, probe)
    entry = {block: maps.get(block - 1, maps[block]) for block in links}
    moments = {block: Moments(target.anatomy.width) for block in links}
    for states in passes(source, probe, Origin.SOURCE, {main - 1 for main in links.values()}):
        for block, main in links.items():
            given = states[main - 1]
            mapped = entry[block](given)
            lengths = length(mapped, target.anatomy), length(given, source.anatomy)
            moments[block].add(mapped, *lengths)
    made = {}
    for block, moment in moments.items():
        back = between_norms(
            linear_inverse(entry[block], moment.second, moment.mean, ridge),
            source_centres=subtracts_mean(source.anatomy),
            target_centres=subtracts_mean(target.anatomy),
        )
        made[block] = Change(back * moment.ratio, maps[block].matrix.cpu().double(), moment.ratio)
    return made


def scaled(
    maps: Mapping[int, AffineMap], points: Mapping[int, int], probe: Probe
) -> Mapping[int, AffineMap]:
    """Give maps that ignore the length of a state the scale of the target's own states.

    Such a map, `M h / ‖h‖`, is replaced by `κ M h`, with κ so that mapped states are on average as
    long as the target's at the same block; maps without `normalise` are returned as they are.
    Lengths are measured after taking the map's centre and offset off.

    Arguments:
        maps: by target block.
        points: the source block that each target block's map starts from.
        probe: gives the `align` split and the pair.

    Raises:
        NonFiniteError: states are not finite.
    """
    maps = {block: found for block, found in maps.items() if block in points}
    free = {block: found for block, found in maps.items() if found.normalise}
    if not free:
        return maps
    pair = probe.pair
    plain = {b: attrs.evolve(f, offset=None, normalise=False) for b, f in free.items()}
    wanted = mean_squares(
        passes(pair.target, probe, Origin.TARGET, set(free)),
        {b: (b, functools.partial(less, offset=f.offset)) for b, f in free.items()},
    )
    given = mean_squares(
        passes(pair.source, probe, Origin.SOURCE, {points[b] for b in free}),
        {b: (points[b], found) for b, found in plain.items()},
    )
    factors = {b: math.sqrt(wanted[b] / max(given[b], 1e-300)) for b in free}
    return maps | {
        b: attrs.evolve(f, matrix=f.matrix * factors[b], normalise=False) for b, f in free.items()
    }


def mean_squares(
    batches: Iterable[Mapping[int, Tensor]],
    readings: Mapping[int, tuple[int, Callable[[Tensor], Tensor]]],
) -> Mapping[int, float]:
    """Return the mean squared length of states over all tokens, by name of the reading.

    Arguments:
        batches: states `[tokens, D]` by block.
        readings: for each name, which block is read and what is done with its states first.
    """
    totals, tokens = dict.fromkeys(readings, 0.0), 0
    for states in batches:
        tokens += len(next(iter(states.values())))
        for name, (block, change) in readings.items():
            totals[name] += float(change(states[block]).square().sum())
    return {name: total / max(tokens, 1) for name, total in totals.items()}


def less(states: Tensor, offset: Tensor | None) -> Tensor:
    """Return states with an offset taken off, if there is one."""
    return states if offset is None else states - offset.to(states)


def passes(
    model: LoadedModel, probe: Probe, origin: Origin, blocks: set[int]
) -> Iterator[dict[int, Tensor]]:
    """Yield residual states `[tokens, D]` by block, fp64 on the CPU, batch after batch."""
    split, size = probe.encoded(SPLIT, origin), probe.settings.batch_size
    order = range(len(split.items))
    for start in range(0, len(order), size):
        named, _ = forward_states(
            model, split, order[start : start + size], sorted(blocks), logits=False
        )
        states = {block: named[f"block.{block}"].cpu().double() for block in blocks}
        for block, tensor in states.items():
            if not bool(tensor.isfinite().all()):
                raise NonFiniteError(
                    f"states of model '{model.name}' at block {block} are not finite on split "
                    f"'{SPLIT}'. Try --dtype float32."
                )
        yield states


def length(states: Tensor, anatomy: Anatomy) -> Tensor:
    """Return what the model's norms divide a state by, `[tokens]`."""
    if subtracts_mean(anatomy):
        return states.std(dim=1, correction=0)
    return states.square().mean(dim=1).sqrt()


def subtracts_mean(anatomy: Anatomy) -> bool:
    """Return whether the family's norms subtract the mean over channels."""
    return isinstance(anatomy.final_norm, nn.LayerNorm)

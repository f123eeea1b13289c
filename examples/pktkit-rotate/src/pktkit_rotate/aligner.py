"""The aligner `resistant-procrustes`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators

from pktkit.activations.moments import MAX_BYTES, grouped
from pktkit.activations.paired import PairedStates
from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError, UsageError
from pktkit.options import option
from pktkit.values import Alignment, Interface, LayerMap, TargetStates
from pktkit_rotate.resistant import LOSSES, WeightedSums, token_weights

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import ModelPair
    from pktkit.probe import Probe
    from pktkit.state_maps import AffineMap

CONVERGED = 1e-4
"""Iteration stops when no token's weight moves by more than this."""


@attrs.frozen
class ResistantOptions:
    """Settings of the aligner."""

    loss: str = option("huber", "Which loss of the residual's length.", choices=tuple(LOSSES))
    cutoff: float = option(
        2.0,
        "Residuals longer than this count less, in units of the median length.",
        # Above 1, so that the half of the tokens with shorter residuals always counts.
        validator=validators.gt(1),
    )
    iterations: int = option(
        10,
        "At most so many times weights are renewed; 0 is plain Procrustes.",
        validator=validators.ge(0),
    )
    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the maps are fitted on.")
    max_bytes: int = option(
        MAX_BYTES,
        "Limit of the sums in bytes; more blocks than fit are fitted in further passes.",
        validator=validators.gt(0),
    )


@attrs.frozen(eq=False)
class Fitted:
    """Maps of some blocks: by target block the map, and how many tokens it rests on."""

    maps: Mapping[int, AffineMap]
    effective_tokens: Mapping[int, float]
    iterations: int


class ResistantProcrustes:
    """Maps each linked block by a centred rotation that outlying tokens hardly turn."""

    Options = ResistantOptions
    capabilities = Capabilities(
        affine=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=1e-5,
    )

    def __init__(self, options: ResistantOptions) -> None:
        self.options = options

    def align(self, pair: ModelPair, layer_map: LayerMap, probe: Probe) -> Alignment:
        """Return target states for every linked block.

        Raises:
            UsageError: no block is linked, or the split has fewer than two tokens.
            NonFiniteError: a state is NaN or infinite.
            DoesNotFitError: one link alone needs more than `max_bytes`.
        """
        options = self.options
        paired = PairedStates(probe, options.split, options.interface)
        _require_material(layer_map, paired)
        groups = grouped(
            layer_map.links,
            width_source=pair.source.anatomy.width,
            width_target=pair.target.anatomy.width,
            source=True,
            target=False,
            max_bytes=options.max_bytes,
        )
        fits = [self.fit(paired, attrs.evolve(layer_map, links=links)) for links in groups]
        maps = {block: m for fit in fits for block, m in fit.maps.items()}
        effective = {block: n for fit in fits for block, n in fit.effective_tokens.items()}
        return Alignment(
            "resistant-procrustes",
            layer_map,
            target_states=TargetStates(maps, layer_map, options.interface),
            diagnostics={
                "tokens": paired.tokens,
                "effective_tokens": [effective[link.target] for link in layer_map.links],
                "iterations": max(fit.iterations for fit in fits),
            },
        )

    def fit(self, paired: PairedStates, layer_map: LayerMap) -> Fitted:
        """Fit all links of a map at once, renewing the weights until they settle."""
        blocks = [link.target for link in layer_map.links]
        weights = {block: torch.ones(paired.tokens, dtype=torch.float64) for block in blocks}
        sums = _weighted_sums(paired, layer_map, weights)
        iteration, moved = 0, 1.0
        while iteration < self.options.iterations and moved > CONVERGED:
            maps = {block: sums[block].rotation() for block in blocks}
            lengths = _residual_lengths(paired, layer_map, maps)
            before, weights = weights, self._weights(lengths)
            sums = _weighted_sums(paired, layer_map, weights)
            moved = max(float((weights[b] - before[b]).abs().max()) for b in blocks)
            iteration += 1
        return Fitted(
            maps={block: sums[block].rotation() for block in blocks},
            effective_tokens={block: sums[block].effective_tokens for block in blocks},
            iterations=iteration,
        )

    def _weights(self, lengths: Mapping[int, Tensor]) -> dict[int, Tensor]:
        loss, cutoff = self.options.loss, self.options.cutoff
        return {block: token_weights(each, loss, cutoff) for block, each in lengths.items()}


def _weighted_sums(
    paired: PairedStates, layer_map: LayerMap, weights: Mapping[int, Tensor]
) -> dict[int, WeightedSums]:
    sums = {block: WeightedSums() for block in weights}
    for tokens, block, ours, theirs in _chunks(paired, layer_map):
        sums[block].add(ours, theirs, weights[block][tokens].to(ours.device))
    return sums


def _residual_lengths(
    paired: PairedStates, layer_map: LayerMap, maps: Mapping[int, AffineMap]
) -> dict[int, Tensor]:
    lengths = {block: torch.empty(paired.tokens, dtype=torch.float64) for block in maps}
    for tokens, block, ours, theirs in _chunks(paired, layer_map):
        lengths[block][tokens] = (theirs - maps[block](ours)).norm(dim=-1).cpu()
    return lengths


def _chunks(
    paired: PairedStates, layer_map: LayerMap
) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Yield which tokens, which block, and both sides' fp64 states; never all tokens at once."""
    start = 0
    for ours, theirs in paired.chunks(layer_map):
        stop = start
        for link in layer_map.links:
            left, right = _precise(ours[link.target]), _precise(theirs[link.target])
            if not bool(left.isfinite().all() and right.isfinite().all()):
                raise NonFiniteError(
                    f"a state of source block {link.main} or target block {link.target} is not "
                    f"finite (split '{paired.split}'). Try --dtype float32."
                )
            stop = start + left.shape[0]
            yield slice(start, stop), link.target, left, right
        start = stop


def _precise(states: Tensor) -> Tensor:
    """Return states in fp64, where they are if that is a GPU that has it, else on the CPU."""
    return states.to("cuda" if states.is_cuda else "cpu", torch.float64)


def _require_material(layer_map: LayerMap, paired: PairedStates) -> None:
    if not layer_map.links:
        raise UsageError(
            "aligner 'resistant-procrustes' rotates linked blocks, but the layer map links none. "
            "Name a matcher in the strategy, e.g. 'depth'."
        )
    if paired.tokens < 2:
        raise UsageError(
            f"aligner 'resistant-procrustes' needs at least 2 tokens, but split '{paired.split}' "
            f"has {paired.tokens}. Use split=train."
        )

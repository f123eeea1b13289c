"""Pairing by how alike two blocks' states are, kept monotone in depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import structlog
from attrs import validators

from pktkit.activations.similarity import CkaMatrix
from pktkit.capabilities import Capabilities
from pktkit.errors import NonFiniteError, UsageError
from pktkit.options import option
from pktkit.values import Interface, LayerLink, LayerMap, Origin
from pktkit_latent.matchers.assignment import monotone_assignment
from pktkit_latent.matchers.depth import sources_by_depth
from pktkit_latent.matchers.restriction import RestrictionOptions, linked_blocks

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import ModelPair
    from pktkit.probe import Probe, StateReader
    from pktkit.prospect import Prospect

log = structlog.get_logger(__name__)

LEAST_TOKENS = 4
"""The unbiased estimator divides by `tokens − 3`."""

FEW_TOKENS = 256
"""Fewer tokens in the whole split than this, and the map says so."""

MEASURES = ("cka", "centred-cosine")


@attrs.frozen
class AffinityOptions(RestrictionOptions):
    """Settings of affinity matching.

    `cka` compares centred linear kernels, in which tokens of large norm count most.
    `centred-cosine` scales every centred state to length 1 first, so that it compares the tables
    of cosines between tokens, and all tokens count alike. Neither needs equal widths.
    """

    measure: str = option("cka", "How alike two blocks are.", choices=MEASURES)
    strict: bool = option(
        False, "Let a source block serve one target block only, where the source is deep enough."
    )
    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose states are compared.")
    batch_tokens: int = option(
        256,
        "Tokens compared at a time; memory grows with the square.",
        validator=validators.ge(LEAST_TOKENS),
    )


class AffinityMatcher:
    """Gives every target block one source block, monotone in depth, most alike in sum."""

    Options = AffinityOptions
    capabilities = Capabilities(
        monotone=True,
        rotation_equivariant=True,
        vocabulary_permutation_invariant=True,
        item_order_invariant=True,
        self_transfer_tolerance=0.0,
    )

    def __init__(self, options: AffinityOptions) -> None:
        self.options = options

    def check(self, prospect: Prospect) -> None:
        """Refuse tokenizers between which positions cannot be matched."""
        prospect.pair.require_states()

    def match(self, pair: ModelPair, probe: Probe) -> LayerMap:
        """Return one link per target block; diagnostics hold the matrix `[L_src, L_tgt]`.

        The note compares the chosen sum of affinities with that of the map by depth.

        Raises:
            UsageError: the restriction names a block that the target lacks, or leaves none; the
                split has fewer than 4 tokens.
            PairIncompatibleError: the tokenizers differ, so that states have no common positions.
            NonFiniteError: a state is not finite.
        """
        source_blocks, target_blocks = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
        linked = linked_blocks(self.options, target_blocks)
        affinity = affinity_matrix(
            pair,
            probe,
            split=self.options.split,
            measure=self.options.measure,
            interface=self.options.interface,
            batch_tokens=self.options.batch_tokens,
        )
        strict = self.options.strict and source_blocks >= target_blocks
        sources = monotone_assignment(affinity.numpy(), strict=strict)
        by_depth = sources_by_depth(source_blocks, target_blocks)
        notes = [
            f"affinity ({self.options.measure}) over {target_blocks} target blocks sums to "
            f"{_total(affinity, sources):.3f}, by depth to {_total(affinity, by_depth):.3f}"
        ]
        if len(set(sources)) == 1 < min(source_blocks, target_blocks):
            notes.append(
                f"source block {sources[0]} serves every target block; option strict spreads them"
            )
        if self.options.strict and not strict:
            notes.append(
                f"not strict: {source_blocks} source blocks for {target_blocks} target blocks"
            )
        tokens = _token_count(probe, self.options.split)
        if tokens < FEW_TOKENS:
            notes.append(
                f"split '{self.options.split}' has {tokens} tokens only: affinities are noisy"
            )
            log.warning(notes[-1])
        return LayerMap(
            links=[LayerLink(target, (sources[target],)) for target in linked],
            source_blocks=source_blocks,
            target_blocks=target_blocks,
            method="affinity",
            note="; ".join(notes),
            diagnostics={"measure": self.options.measure, "affinity": affinity.tolist()},
        )


def affinity_matrix(
    pair: ModelPair,
    probe: Probe,
    *,
    split: str,
    measure: str,
    interface: Interface,
    batch_tokens: int,
) -> Tensor:
    """Return how alike every source block and every target block are, `[L_src, L_tgt]`, fp64.

    States are read at predicting positions and in batches: memory depends on the batch alone.

    Raises:
        UsageError: the split has fewer than 4 tokens.
        PairIncompatibleError: the tokenizers differ.
        NonFiniteError: a state is not finite.
    """
    tokens = _token_count(probe, split)
    if tokens < LEAST_TOKENS:
        raise UsageError(
            f"split '{split}' has {tokens} supervised tokens; affinity needs at least "
            f"{LEAST_TOKENS}. Give the split more rows, or match by depth."
        )
    depths = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
    ours = probe.states(split, range(depths[0]), interface=interface, origin=Origin.SOURCE)
    theirs = probe.states(split, range(depths[1]), interface=interface, origin=Origin.TARGET)
    alike = CkaMatrix(*depths)
    rows_at_once = probe.settings.batch_size
    for rows in token_batches(ours.index.counts, batch_tokens):
        left = _read(ours, rows, rows_at_once, measure, "source")
        right = _read(theirs, rows, rows_at_once, measure, "target")
        alike.update(left, [states.to(left[0].device) for states in right])
    return alike.values()


def token_batches(counts: Sequence[int], least: int) -> list[list[int]]:
    """Group rows, in order, into batches of at least `least` tokens.

    Answers may be one token long, too few for a comparison among tokens. Rows left over at the
    end join the batch before; a split with fewer tokens is one batch.

    Arguments:
        counts: tokens per row.
        least: tokens wanted per batch.
    """
    batches: list[list[int]] = [[]]
    tokens = 0
    for row, count in enumerate(counts):
        if tokens >= least:
            batches.append([])
            tokens = 0
        batches[-1].append(row)
        tokens += count
    if tokens < least and len(batches) > 1:
        rest = batches.pop()
        batches[-1].extend(rest)
    return batches


def _read(
    reader: StateReader, rows: Sequence[int], at_once: int, measure: str, side: str
) -> list[Tensor]:
    """Read one batch of tokens, a forward pass of at most `at_once` rows at a time."""
    import torch

    parts = [reader.read(rows[start : start + at_once]) for start in range(0, len(rows), at_once)]
    states = []
    for block in reader.blocks:
        joined = torch.cat([part[block] for part in parts]).double()
        if not bool(joined.isfinite().all()):
            raise NonFiniteError(
                f"states of {side} block {block} are not finite on split '{reader.split.name}'. "
                "Try --dtype float32."
            )
        states.append(_directions(joined) if measure == "centred-cosine" else joined)
    return states


def _directions(states: Tensor) -> Tensor:
    """Centre states over their batch and scale each to length 1; a zero state stays zero."""
    from torch.nn import functional

    return functional.normalize(states - states.mean(dim=0), dim=-1, eps=1e-30)


def _token_count(probe: Probe, split: str) -> int:
    return sum(item.supervised_count for item in probe.encoded(split).items)


def _total(affinity: Tensor, sources: Sequence[int]) -> float:
    return sum(float(affinity[source, target]) for target, source in enumerate(sources))

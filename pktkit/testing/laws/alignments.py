"""What an aligner returned, made comparable: its updates as matrices, its maps on given states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pktkit.families import PROJECTIONS
from pktkit.pair import LoadedModel
from pktkit.testing.laws.common import Observed
from pktkit.testing.needs import needed
from pktkit.testing.scenes import Opened
from pktkit.testing.subject import NotApplicable, Subject
from pktkit.updates import SparseUpdate
from pktkit.values import Alignment, Origin, Space, TargetStates

TOKENS = 7
EXAMPLES = 12
MORE_EXAMPLES = 100


def aligned(subject: Subject, opened: Opened) -> Alignment:
    """Run the aligner, and check that it returns an alignment.

    Raises:
        LawViolation: it returns something else.
    """
    found = subject.build().align(opened.pair, opened.layer_map, opened.probe)
    subject.require(
        isinstance(found, Alignment), f"it returned {type(found).__name__}, expected Alignment."
    )
    return found


def observe(subject: Subject, opened: Opened) -> Observed:
    """Observe what the maps make of given states, and every update."""
    found = aligned(subject, opened)
    values = dict(updates_of(found, opened))
    states = found.target_states
    if states is not None:
        given = origin_states(states, opened, seed=0)
        values |= {f"states of block {b}": states.states(b, given) for b in states.blocks}
    plain = {
        "blocks": () if states is None else states.blocks,
        "shuffled": states is not None and states.shuffle_items,
    }
    return Observed(values, plain, dict(found.diagnostics))


def updates_of(alignment: Alignment, opened: Opened) -> Iterator[tuple[str, Tensor]]:
    """Yield every update as a matrix, whatever its form, those for one item included."""
    for dense in alignment.dense:
        yield f"dense {dense.parameter}", dense.value
    for low in alignment.low_rank:
        yield (
            f"low-rank {low.projection} of block {low.block}",
            low.scale * low.b.double() @ low.a.double(),
        )
    for index, sparse in enumerate(sparse_of(alignment, opened)):
        shape = part_of(opened.pair.target, sparse.block, sparse.projection).shape
        added = sparse.added_to(torch.zeros(shape, device=sparse.values.device))
        yield f"sparse {index}, {sparse.projection} of block {sparse.block}", added


def sparse_of(alignment: Alignment, opened: Opened) -> tuple[SparseUpdate, ...]:
    """Return sparse updates, those for the first training item included."""
    if alignment.sparse_at is None:
        return alignment.sparse
    first = opened.probe.encoded("train").items[0]
    return (*alignment.sparse, *alignment.sparse_at(first))


def part_of(target: LoadedModel, block: int, projection: str) -> Tensor:
    """Return what an update of a projection changes, `[out, in]`."""
    if projection in PROJECTIONS:
        return target.anatomy.projections(block)[projection].read(target.model)
    anatomy = target.anatomy
    # An adapter of an embedding takes token ids: its output is the width.
    return anatomy.embedding.weight.T if projection == "embed" else anatomy.head_weight


def origin_states(states: TargetStates, opened: Opened, seed: int) -> dict[int, Tensor]:
    """Draw Gaussian states of every block that is read, `[TOKENS, D_origin]`."""
    width, depth = origin_sizes(states, opened)
    generator = torch.Generator().manual_seed(seed)
    return {b: torch.randn(TOKENS, width, generator=generator) for b in range(depth)}


def origin_sizes(states: TargetStates, opened: Opened) -> tuple[int, int]:
    """Return width and depth of the model whose states are mapped."""
    target = states.origin is Origin.TARGET
    anatomy = (opened.pair.target if target else opened.pair.source).anatomy
    return anatomy.width, anatomy.n_blocks


def mapped_width(states: TargetStates, opened: Opened) -> int:
    """Return the width that maps lead to."""
    if states.space is Space.ORIGIN:
        return origin_sizes(states, opened)[0]
    return opened.pair.target.anatomy.width


def target_states(subject: Subject, opened: Opened) -> TargetStates:
    """Align and return the target states.

    Raises:
        NotApplicable: the alignment has none.
    """
    found = aligned(subject, opened).target_states
    if found is None:
        raise NotApplicable("its alignments hold no target states")
    return found


def for_drawn_states(
    subject: Subject, states: TargetStates, opened: Opened, test: Callable[[Tensor], None]
) -> None:
    """Run a test on drawn states; the smallest failing example is what is reported."""
    hypothesis = needed("hypothesis")
    from pktkit.testing import strategies

    width = origin_sizes(states, opened)[0]

    @hypothesis.given(strategies.states(width))
    @strategies.quietly(MORE_EXAMPLES if subject.thorough else EXAMPLES)
    def run(drawn: Tensor) -> None:
        test(drawn)

    run()

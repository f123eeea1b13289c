"""Neuron-level attribution: which halves and which neurons of a model raise an item's answer.

Scores are log-probability gains seen through the lens (arXiv 2505.14436, locating stage; the
measure is that of arXiv 2312.12141): `ℓ(base + step) − ℓ(base)`, in nats, averaged over the
attributed answer tokens. A half's step is all it adds; a neuron's step is its activation times
its column of the writing projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from attrs import validators

from pktkit.errors import NonFiniteError
from pktkit.options import option
from pktkit_laten.lens import Lens
from pktkit_laten.reading import Half, Reading, read_item

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.encoding import EncodedItem
    from pktkit.pair import LoadedModel


@attrs.frozen
class AttributionOptions:
    """What is attributed, and through which lens."""

    lens: str = option(
        "rmsnorm",
        "rmsnorm takes the statistic of the model's own final norm; released a standard deviation "
        "in its place, as the public code does.",
        choices=("rmsnorm", "released"),
    )
    attn_pos: str = option(
        "sum",
        "sum takes attention's values mixed over all key positions; last_key only what a token "
        "contributes to itself, as the public code does.",
        choices=("sum", "last_key"),
    )
    target: str = option(
        "last_token",
        "Whose probability is attributed: the answer's last token (published), or the mean over "
        "all_answer_tokens.",
        choices=("last_token", "all_answer_tokens"),
    )
    chunk_bytes: int = option(
        1 << 28, "Most bytes of tables of neurons by tokens.", validator=validators.ge(1)
    )


@attrs.frozen(eq=False)
class Attribution:
    """One item read in one model, ready to be scored.

    Arguments:
        model: it must not change while this is in use.
        item: its id, for messages.
        reading: of the item.
        lens: of the model.
    """

    model: LoadedModel
    item: str
    reading: Reading
    lens: Lens

    @classmethod
    def of(cls, model: LoadedModel, item: EncodedItem, options: AttributionOptions) -> Attribution:
        """Read an item.

        Raises:
            UsageError: the item's answer is empty.
            PairIncompatibleError: the model's blocks are no sums of their halves.
        """
        reading = read_item(model, item, options.target, options.attn_pos)
        lens = Lens(model.anatomy, options.lens, options.chunk_bytes)
        return cls(model, item.id, reading, lens)

    def block_scores(self, half: Half) -> Tensor:
        """Return what each block's half adds to the answer's log-probability, `[blocks]`, nats.

        Raises:
            NonFiniteError: a score is not finite.
        """
        scores = []
        for block, read in enumerate(self.reading.halves[half]):
            one = read.step.new_ones(1)
            gains = [
                self.lens.gains(read.base[p], read.step[p][:, None], one, gold, denominator)
                for p, (gold, denominator) in enumerate(self._positions())
            ]
            scores.append(self._mean(gains, half, block)[0])
        return torch.stack(scores)

    def neuron_scores(self, half: Half, block: int) -> Tensor:
        """Return what each neuron alone adds to the answer's log-probability, `[neurons]`, nats.

        Neurons of attention are the columns of the output projection, head-major; those of the
        feed-forward half the columns of the down projection.

        Raises:
            NonFiniteError: a score is not finite.
        """
        read = self.reading.halves[half][block]
        columns = self.model.anatomy.projections(block)[half.writer].read(self.model.model)
        gains = [
            self.lens.gains(
                read.base[p],
                columns,
                read.coefficients[p],
                gold,
                denominator,
                None if read.gain is None else read.gain[p],
            )
            for p, (gold, denominator) in enumerate(self._positions())
        ]
        return self._mean(gains, half, block)

    def strongest(self, half: Half, block: int, count: int) -> Tensor:
        """Return the `count` neurons with the largest scores, largest first, int64.

        Of equal scores the lower index comes first.
        """
        return torch.sort(self.neuron_scores(half, block), descending=True, stable=True).indices[
            :count
        ]

    def _positions(self) -> list[tuple[int, Tensor]]:
        denominators = self.lens.denominators(self.reading.final)
        return list(zip(self.reading.gold, denominators, strict=True))

    def _mean(self, gains: Sequence[Tensor], half: Half, block: int) -> Tensor:
        mean = torch.stack(list(gains)).mean(dim=0)
        if not bool(mean.isfinite().all()):
            raise NonFiniteError(
                f"an attribution score of the {half} half of block {block} in '{self.model.name}' "
                f"is not finite on item {self.item}. Try --dtype float32."
            )
        return mean


def strongest_blocks(scores: Tensor, count: int) -> tuple[int, ...]:
    """Return the `count` blocks with the largest scores, ascending; ties keep lower blocks."""
    ranked = torch.sort(scores, descending=True, stable=True).indices[:count]
    return tuple(sorted(ranked.tolist()))


def paired_blocks(source: Tensor, target: Tensor) -> tuple[tuple[int, int], ...]:
    """Pair the strongest blocks of both models in their order, as many as the shallower has.

    A source at least as deep as the target, the published case, gives every target block one
    source block. A deeper target receives into its own strongest blocks.

    Arguments:
        source, target: scores by block.

    Returns:
        `(source block, target block)`, ascending in both.
    """
    count = min(len(source), len(target))
    chosen = strongest_blocks(source, count), strongest_blocks(target, count)
    return tuple(zip(*chosen, strict=True))

"""Second moments of paired states, summed over chunks of tokens in fp64.

No more than one chunk of states is in memory at a time, and no more accumulators than a byte
limit allows: links that do not fit together are summed in further passes over the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.activations.paired import PairedStates
from pktkit.errors import DoesNotFitError, NonFiniteError
from pktkit.values import LayerLink, LayerMap

if TYPE_CHECKING:
    from torch import Tensor

MAX_BYTES = 1 << 30
"""Default limit of the accumulators of one pass, in bytes."""

PANEL = 512
"""Columns of a Gram matrix computed at a time; only panels on and above the diagonal are."""


@attrs.frozen(eq=False)
class Moments:
    """What least squares needs to know about paired states of one link.

    Arguments:
        count: tokens.
        mean_source: `[D_src]`; mean_target: `[D_tgt]`.
        cross: covariance of target with source, `[D_tgt, D_src]`.
        source: covariance of the source's states `[D_src, D_src]`; None unless asked for.
        target: covariance of the target's states `[D_tgt, D_tgt]`; None unless asked for.

    All fp64; covariances are divided by `count`. Tensors may be shared between links.
    """

    count: int
    mean_source: Tensor
    mean_target: Tensor
    cross: Tensor
    source: Tensor | None = None
    target: Tensor | None = None


@attrs.define(eq=False)
class RunningMean:
    """A mean over chunks, and what a chunk adds to scatter matrices about it.

    With `n` tokens seen and a chunk of `m`, scatter about the common mean grows by the chunk's
    scatter about its own mean plus `n m / (n + m) · δ δᵀ`, `δ` the difference of the two means
    (Chan, Golub and LeVeque 1983). Nothing is ever subtracted from a sum of squares.
    """

    count: int = 0
    mean: Tensor | None = None

    def absorb(self, states: Tensor) -> Tensor:
        """Take in a chunk `[tokens, D]` of fp64 states.

        Returns:
            `[tokens + 1, D]`: the centred chunk with `√(n m / (n + m)) · δ` as its last row. For
            two sides with equal counts, `XᵀY` of these is what their cross-scatter grows by.
        """
        tokens = states.shape[0]
        own = states.mean(dim=0)
        if self.mean is None:
            self.mean = torch.zeros_like(own)
        total = self.count + tokens
        delta = own - self.mean
        rows = torch.empty(tokens + 1, states.shape[1], dtype=states.dtype, device=states.device)
        torch.sub(states, own, out=rows[:-1])
        rows[-1] = delta * (self.count * tokens / total) ** 0.5
        self.mean = self.mean + delta * (tokens / total)
        self.count = total
        return rows


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add `XᵀX` to the panels on and above the diagonal; `mirrored` completes the matrix."""
    for start in range(0, total.shape[0], PANEL):
        stop = start + PANEL
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])


def mirrored(total: Tensor) -> Tensor:
    """Return the symmetric matrix whose upper triangle is given."""
    return total.triu() + total.triu(1).T


Mixture = tuple[tuple[int, ...], tuple[float, ...]]


class _Accumulators:
    """Sums of one group of links."""

    def __init__(
        self, links: Sequence[LayerLink], *, source: bool, target: bool, device: torch.device
    ) -> None:
        self.links = links
        self.device = device
        self.source_means: dict[Mixture, RunningMean] = {}
        self.target_means = {link.target: RunningMean() for link in links}
        self.crosses: dict[int, Tensor] = {}
        self.sources: dict[Mixture, Tensor] | None = {} if source else None
        self.targets: dict[int, Tensor] | None = {} if target else None

    def add(self, ours: Mapping[int, Tensor], theirs: Mapping[int, Tensor], where: str) -> None:
        """Take in one chunk: states of source and target by target block."""
        centred: dict[Mixture, Tensor] = {}
        for link in self.links:
            key = _mixture(link)
            if key not in centred:
                mean = self.source_means.setdefault(key, RunningMean())
                centred[key] = self._absorb(
                    mean,
                    ours[link.target],
                    f"source block {'+'.join(map(str, link.sources))}, {where}",
                )
                if self.sources is not None:
                    _grow(self.sources, key, centred[key])
            rows = self._absorb(
                self.target_means[link.target],
                theirs[link.target],
                f"target block {link.target}, {where}",
            )
            if self.targets is not None:
                _grow(self.targets, link.target, rows)
            if link.target not in self.crosses:
                self.crosses[link.target] = rows.new_zeros(rows.shape[1], centred[key].shape[1])
            self.crosses[link.target].addmm_(rows.T, centred[key])

    def moments(self) -> Iterator[tuple[LayerLink, Moments]]:
        """Yield each link's moments; the sums are given away."""
        covariances: dict[Mixture, Tensor] = {}
        for link in self.links:
            key = _mixture(link)
            mean_source, mean_target = self.source_means[key], self.target_means[link.target]
            count = mean_source.count
            if self.sources is not None and key not in covariances:
                covariances[key] = mirrored(self.sources.pop(key)).div_(count)
            assert mean_source.mean is not None and mean_target.mean is not None
            yield (
                link,
                Moments(
                    count=count,
                    mean_source=mean_source.mean,
                    mean_target=mean_target.mean,
                    cross=self.crosses.pop(link.target).div_(count),
                    source=covariances.get(key),
                    target=None
                    if self.targets is None
                    else mirrored(self.targets.pop(link.target)).div_(count),
                ),
            )

    def _absorb(self, mean: RunningMean, states: Tensor, where: str) -> Tensor:
        rows = mean.absorb(states.to(self.device, torch.float64))
        assert mean.mean is not None
        if not bool(mean.mean.isfinite().all()):
            raise NonFiniteError(
                f"a state is not finite: {where}. Nothing can be fitted to it; try --dtype float32."
            )
        return rows


def stream_moments(
    paired: PairedStates,
    layer_map: LayerMap,
    *,
    source: bool = False,
    target: bool = False,
    max_bytes: int = MAX_BYTES,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[LayerLink, Moments]]:
    """Yield the moments of every link, by ascending target block.

    Arguments:
        paired: states of both models.
        layer_map: the links; several source blocks are mixed with their weights first.
        source, target: whether the covariance of that side is needed beside the cross-covariance.
        max_bytes: limit of the sums kept at once; links beyond it wait for another pass.
        device: where sums are kept.

    Raises:
        NonFiniteError: a state is NaN or infinite; names block and split.
        PairIncompatibleError: the models give different numbers of tokens.
        DoesNotFitError: one link alone needs more than `max_bytes`.
    """
    for links in grouped(
        layer_map.links,
        width_source=paired.probe.pair.source.anatomy.width,
        width_target=paired.probe.pair.target.anatomy.width,
        source=source,
        target=target,
        max_bytes=max_bytes,
    ):
        sums = _Accumulators(links, source=source, target=target, device=torch.device(device))
        part = attrs.evolve(layer_map, links=links)
        for ours, theirs in paired.chunks(part):
            sums.add(ours, theirs, f"split '{paired.split}'")
        yield from sums.moments()


def grouped(
    links: Sequence[LayerLink],
    *,
    width_source: int,
    width_target: int,
    source: bool,
    target: bool,
    max_bytes: int,
) -> list[tuple[LayerLink, ...]]:
    """Split links, in order, into groups whose fp64 sums stay within `max_bytes`.

    Raises:
        DoesNotFitError: one link alone needs more.
    """
    groups: list[list[LayerLink]] = []
    used, mixtures = 0, set[Mixture]()
    link_bytes = 8 * width_target * (width_source + (width_target if target else 0))
    mixture_bytes = 8 * width_source**2 if source else 0
    if links and link_bytes + mixture_bytes > max_bytes:
        raise DoesNotFitError(
            f"the second moments of one pair of blocks ({width_source} → {width_target} wide) need "
            f"{(link_bytes + mixture_bytes) / 2**20:.1f} MiB, but max_bytes allows "
            f"{max_bytes / 2**20:.1f} MiB. Set the aligner's max_bytes to at least "
            f"{link_bytes + mixture_bytes}."
        )
    for link in links:
        cost = link_bytes + (0 if _mixture(link) in mixtures else mixture_bytes)
        if not groups or used + cost > max_bytes:
            groups.append([])
            used, mixtures, cost = 0, set(), link_bytes + mixture_bytes
        groups[-1].append(link)
        mixtures.add(_mixture(link))
        used += cost
    return [tuple(group) for group in groups]


def _mixture(link: LayerLink) -> Mixture:
    return link.sources, link.weights


def _grow(sums: dict, key: object, rows: Tensor) -> None:
    if key not in sums:
        sums[key] = rows.new_zeros(rows.shape[1], rows.shape[1])
    add_gram(sums[key], rows)

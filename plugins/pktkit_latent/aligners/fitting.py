"""What all aligners fitted to states share: their options, which tokens count, the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import attrs
import torch
from attrs import validators

from pktkit.activations.moments import MAX_BYTES, Moments, stream_moments
from pktkit.activations.paired import PairedStates
from pktkit.errors import UsageError
from pktkit.options import option
from pktkit.state_maps import AffineMap
from pktkit.values import Alignment, Interface, LayerMap, Origin, StateMap, TargetStates
from pktkit_latent.aligners.delivery import deliver, require_links
from pktkit_latent.aligners.placebo import placebo_option, seed_option
from pktkit_latent.spectral import double_device

if TYPE_CHECKING:
    from torch import Tensor

    from pktkit.pair import ModelPair
    from pktkit.probe import Probe

MINIMUM_TOKENS = 2
"""With one token there is nothing but its mean."""

MINIMUM_RIGHT = 32
"""Tokens that must remain when only those count which the target gets right; fewer say which
tokens happened to be easy, not how the spaces relate."""

Fit = Callable[[Moments], tuple[AffineMap, Mapping[str, Any]]]
"""Fits one link; beside the map, figures for the report by name."""


@attrs.frozen
class FittedOptions:
    """Settings that all fitted aligners share."""

    interface: Interface = option(
        Interface.RESIDUAL, "Where states are read: residual stream or block contribution."
    )
    split: str = option("align", "Split whose tokens the maps are fitted on.")
    fit_on: str = option(
        "all",
        "Which of its tokens: all, or those the untouched target predicts right.",
        choices=("all", "right"),
    )
    max_bytes: int = option(
        MAX_BYTES,
        "Limit of the accumulators in bytes; more blocks than fit are fitted in further passes.",
        validator=validators.gt(0),
    )
    placebo: str = placebo_option()
    seed: int | None = seed_option()
    save: str = option("", "File to write the fitted maps to; empty for none.")


def fit_alignment(
    method: str,
    pair: ModelPair,
    layer_map: LayerMap,
    probe: Probe,
    options: FittedOptions,
    fit: Fit,
    *,
    source: bool = False,
    target: bool = False,
) -> Alignment:
    """Fit one affine map per link and deliver them as target states.

    Arguments:
        method: name of the aligner.
        fit: fits one link.
        source, target: whether `fit` needs the covariance of that side.

    Raises:
        UsageError: no links, too few tokens, or what `fit` refuses, with the block named.
        NonFiniteError: a state is NaN or infinite.
        PairIncompatibleError: the tokenizers differ.
        DoesNotFitError: one link alone needs more than `max_bytes`.
    """
    require_links(method, layer_map)
    kept = right_positions(probe, options.split) if options.fit_on == "right" else None
    paired = PairedStates(probe, options.split, options.interface, kept)
    _require_tokens(method, paired)
    maps: dict[int, StateMap] = {}
    figures: dict[str, list[Any]] = {}
    for link, moments in stream_moments(
        paired,
        layer_map,
        source=source,
        target=target,
        max_bytes=options.max_bytes,
        device=double_device(pair.target.anatomy.head_weight.device),
    ):
        try:
            maps[link.target], found = fit(moments)
        except UsageError as error:
            raise UsageError(f"target block {link.target}: {error}") from error
        for name, value in found.items():
            figures.setdefault(name, []).append(value)
    return deliver(
        method,
        TargetStates(maps=maps, layer_map=layer_map, interface=options.interface),
        probe,
        split=options.split,
        placebo=options.placebo,
        seed=options.seed,
        kept=kept,
        save=options.save,
        diagnostics={"fit_on": options.fit_on, "tokens": paired.tokens, **figures},
    )


def right_positions(probe: Probe, split: str) -> Tensor:
    """Return where the untouched target's best token is the gold one, bool `[tokens]`.

    Raises:
        UsageError: fewer than `MINIMUM_RIGHT` such tokens.
    """
    encoded = probe.encoded(split)
    reader = probe.logits(split, origin=Origin.TARGET)
    size = probe.settings.batch_size
    right = []
    for start in range(0, len(encoded.items), size):
        rows = range(start, min(start + size, len(encoded.items)))
        items = [encoded.items[row] for row in rows]
        gold = torch.tensor([i for item in items for i in item.input_ids[item.supervised :]])
        right.append(reader.read(rows).argmax(dim=-1).cpu() == gold)
    kept = torch.cat(right)
    if int(kept.sum()) < MINIMUM_RIGHT:
        raise UsageError(
            f"fit_on=right: the target predicts {int(kept.sum())} of the {len(kept)} answer tokens "
            f"of split '{split}' right, and a fit needs at least {MINIMUM_RIGHT}. Use fit_on=all, "
            "or a split with more rows, e.g. split=train."
        )
    return kept


def _require_tokens(method: str, paired: PairedStates) -> None:
    if paired.tokens < MINIMUM_TOKENS:
        raise UsageError(
            f"aligner '{method}' needs at least {MINIMUM_TOKENS} tokens, but split "
            f"'{paired.split}' has {paired.tokens}. Use split=train."
        )

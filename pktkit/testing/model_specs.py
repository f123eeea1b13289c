"""Tiny models by their description, built again and again."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.families import Anatomy
from pktkit.pair import LoadedModel
from pktkit.testing.copies import Mould
from pktkit.testing.models import tiny_loaded
from pktkit.testing.reparametrise import plain_llama

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 61
"""Tokens of all of them."""


@attrs.frozen
class ModelSpec:
    """A tiny model that can be built again and again.

    Arguments:
        family: one of `pktkit.testing.FAMILIES`.
        sizes: further arguments of `tiny_loaded`, seed included.
    """

    family: str
    sizes: Mapping[str, Any] = attrs.field(factory=dict)

    def __str__(self) -> str:
        sizes = self.sizes
        tied = " tied" if sizes.get("tied") else ""
        return f"{self.family} {sizes.get('blocks', 3)} × {sizes.get('width', 32)}{tied}"

    def build(self) -> LoadedModel:
        """Build the model, the caller's own to change."""
        return _copied(self.family, tuple(sorted(self.sizes.items())), plain=False)

    def plain(self) -> LoadedModel:
        """Build it with norms of gain 1, as only a Llama can be."""
        return _copied(self.family, tuple(sorted(self.sizes.items())), plain=True)


def _copied(family: str, sizes: tuple[tuple[str, Any], ...], *, plain: bool) -> LoadedModel:
    loaded, mould = _pristine(family, sizes, plain=plain)
    model = mould.cast()
    return attrs.evolve(loaded, model=model, anatomy=Anatomy.of(model))


@functools.lru_cache(maxsize=16)
def _pristine(
    family: str, sizes: tuple[tuple[str, Any], ...], *, plain: bool
) -> tuple[LoadedModel, Mould[PreTrainedModel]]:
    """Build a model that nobody gets: copying one takes a tenth of the time of building it."""
    if plain:
        loaded = plain_llama(**dict(sizes))
    else:
        loaded = tiny_loaded(family, vocab=VOCABULARY, **dict(sizes))
    return loaded, Mould(loaded.model)

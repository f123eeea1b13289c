"""Hypothesis strategies: states, LM heads, layer maps, model pairs and alignments.

All of them shrink towards the plainest case: ordinary states, the first family, equal sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pktkit.errors import unknown_name
from pktkit.pair import ModelPair
from pktkit.testing.model_specs import ModelSpec
from pktkit.testing.models import FAMILIES
from pktkit.testing.needs import needed
from pktkit.testing.synthetic import alignment_of
from pktkit.values import LayerLink, LayerMap

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy
    from torch import Tensor

    from pktkit.values import Alignment

needed("hypothesis")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

STATE_KINDS = ("normal", "constant", "zero", "one-hot", "repeated", "tiny", "huge", "mixed")
"""`tiny` and `huge` are 1e±30, near the ends of single precision; `mixed` has both in one batch."""

_EXTREME = 1e30
_SEEDS = st.integers(0, 2**31 - 1)


@st.composite
def states(
    draw: Any,
    width: int,
    *,
    tokens: int | tuple[int, int] = (1, 9),
    kinds: Sequence[str] = STATE_KINDS,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw block states, `[tokens, width]`, finite, often degenerate.

    Arguments:
        width: of the residual stream.
        tokens: how many, or least and most.
        kinds: out of `STATE_KINDS`.
        dtype: of the result; values too large for it are avoided.

    Raises:
        UsageError: unknown kind.
    """
    for kind in kinds:
        if kind not in STATE_KINDS:
            raise unknown_name("kind of states", kind, STATE_KINDS)
    least, most = (tokens, tokens) if isinstance(tokens, int) else tokens
    count, kind = draw(st.integers(least, most)), draw(st.sampled_from(tuple(kinds)))
    drawn = _normal((count, width), draw(_SEEDS))
    extreme = min(_EXTREME, torch.finfo(dtype).max ** 0.75)
    if kind == "constant":
        drawn = torch.full_like(drawn, float(drawn[0, 0]))
    elif kind == "zero":
        drawn = torch.zeros_like(drawn)
    elif kind == "one-hot":
        drawn = torch.eye(width, dtype=drawn.dtype)[torch.arange(count) % width]
    elif kind == "repeated":
        drawn = drawn[:1].repeat(count, 1)
    elif kind in ("tiny", "huge"):
        drawn = drawn * (extreme if kind == "huge" else 1 / extreme)
    elif kind == "mixed":
        sizes = torch.tensor([1.0, 1 / extreme, 0.0, extreme], dtype=drawn.dtype)
        drawn = drawn * sizes[torch.arange(count) % len(sizes)].unsqueeze(1)
    return drawn.to(dtype)


@st.composite
def heads(
    draw: Any,
    *,
    vocabulary: tuple[int, int] = (24, 80),
    width: tuple[int, int] = (2, 16),
    scale: tuple[float, float] = (0.1, 10.0),
) -> Tensor:
    """Draw the weight of an LM head, `[vocabulary, width]`, fp64.

    Rows vary in length, some are equal, and some may be zero, as those of unused tokens are.

    Arguments:
        vocabulary, width: least and most.
        scale: least and most spread of the rows' lengths.
    """
    rows, columns = draw(st.integers(*vocabulary)), draw(st.integers(*width))
    spread = draw(st.floats(*scale, allow_nan=False))
    head = _normal((rows, columns), draw(_SEEDS)) * spread
    head = head * (0.5 + torch.linspace(0, 1, rows, dtype=head.dtype)).unsqueeze(1)
    if draw(st.booleans()):
        head[1] = head[0]
    if draw(st.booleans()):
        head[-1] = 0.0
    return head


@st.composite
def layer_maps(
    draw: Any,
    source_blocks: int | None = None,
    target_blocks: int | None = None,
    *,
    monotone: bool = False,
) -> LayerMap:
    """Draw a valid layer map: some target blocks, each with one to three source blocks.

    Arguments:
        source_blocks, target_blocks: depths; None draws 1 to 8.
        monotone: deeper target blocks never read shallower source blocks.
    """
    depths = [draw(st.integers(1, 8)) if n is None else n for n in (source_blocks, target_blocks)]
    targets = draw(st.sets(st.integers(0, depths[1] - 1), min_size=1))
    links, reached = [], 0
    for target in sorted(targets):
        least = reached if monotone else 0
        choice = st.integers(least, depths[0] - 1)
        sources = sorted(draw(st.sets(choice, min_size=1, max_size=3)))
        parts = [draw(st.integers(1, 8)) for _ in sources]
        links.append(LayerLink(target, sources, [part / sum(parts) for part in parts]))
        reached = sources[-1]
    return LayerMap(links, depths[0], depths[1], "drawn")


@st.composite
def model_specs(
    draw: Any, families: Sequence[str] = FAMILIES, *, kv_heads: tuple[int, int] = (1, 3)
) -> ModelSpec:
    """Draw a tiny model: a family, grouped queries or not, tied or untied.

    Arguments:
        families: out of `pktkit.testing.FAMILIES`.
        kv_heads: least and most key-value heads, of 8 channels each.
    """
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("tiny model family", family, FAMILIES)
    family = draw(st.sampled_from(tuple(families)))
    groups, keys = draw(st.integers(1, 2)), draw(st.integers(*kv_heads))
    heads = groups * keys
    sizes = {
        "width": 8 * heads * draw(st.integers(1, 2)),
        "blocks": draw(st.integers(1, 4)),
        "heads": heads,
        "kv_heads": keys,
        "ffn": draw(st.sampled_from((24, 40, 72))),
        "tied": draw(st.booleans()),
        "seed": draw(st.integers(0, 1000)),
    }
    return ModelSpec(family, sizes)


@st.composite
def pair_specs(
    draw: Any,
    families: Sequence[str] = FAMILIES,
    *,
    same_family: bool = False,
    kv_heads: tuple[int, int] = (1, 3),
) -> tuple[ModelSpec, ModelSpec]:
    """Draw source and target of a pair; the models are not built yet."""
    source = draw(model_specs(families, kv_heads=kv_heads))
    of_target = (source.family,) if same_family else families
    target = draw(model_specs(of_target, kv_heads=kv_heads))
    return source, target


def model_pairs(
    families: Sequence[str] = FAMILIES, *, same_family: bool = False
) -> SearchStrategy[ModelPair]:
    """Draw a pair of tiny models with one tokenizer, fresh and yours to change.

    Width and depth are unequal as often as not; queries may be grouped, heads tied, biases and
    fused projections come with the family.

    Arguments:
        families: out of `pktkit.testing.FAMILIES`.
        same_family: both of one family.
    """
    return pair_specs(families, same_family=same_family).map(_built)


@st.composite
def alignments(draw: Any, pair: ModelPair, *, layer_map: LayerMap | None = None) -> Alignment:
    """Draw an alignment of a pair that holds states and updates of every form.

    Arguments:
        pair: whose target the updates fit.
        layer_map: the links; None draws them.
    """
    depths = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
    links = draw(layer_maps(*depths)) if layer_map is None else layer_map
    return alignment_of(pair, links, seed=draw(_SEEDS), size=draw(st.sampled_from((0.02, 0.3))))


def quietly(examples: int) -> Any:
    """Return settings for the kit's own use: no database, no deadline, always the same draws."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def drawn_pairs(count: int) -> list[tuple[ModelSpec, ModelSpec]]:
    """Return some drawn pairs, always the same ones, no matrix smaller than usual ranks (16)."""
    found: list[tuple[ModelSpec, ModelSpec]] = []

    @quietly(count)
    @given(pair_specs(kv_heads=(2, 3)))
    def collect(specs: tuple[ModelSpec, ModelSpec]) -> None:
        found.append(specs)

    collect()
    return found[:count]


def _built(specs: tuple[ModelSpec, ModelSpec]) -> ModelPair:
    source, target = (spec.build() for spec in specs)
    source.model.requires_grad_(False)
    return ModelPair(source, target)


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)

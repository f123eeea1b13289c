"""Where laws are tested: tiny pairs of several families, and a task of tiny sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs
import torch

from pktkit.components import Choice
from pktkit.errors import PairIncompatibleError
from pktkit.pair import ModelPair
from pktkit.probe import Probe
from pktkit.settings import ProbeSettings
from pktkit.tasks.base import Item, Task, TaskCard
from pktkit.testing.model_specs import VOCABULARY, ModelSpec
from pktkit.testing.models import SPECIAL_TOKENS
from pktkit.testing.reparametrise import random_rotation, renumbered, rotated
from pktkit.testing.subject import NotApplicable, Subject
from pktkit.values import LayerLink, LayerMap

if TYPE_CHECKING:
    from torch import Tensor

WORDS = VOCABULARY - len(SPECIAL_TOKENS)
ROWS: Mapping[str, int] = {"train": 8, "align": 24, "extract": 4, "dev": 4, "test": 5}
"""Items per split; those of `align` have more tokens than the models have channels."""

MORE_PAIRS = 5
"""How many drawn pairs a thorough run adds."""


@attrs.frozen(eq=False)
class Opened:
    """A scene with its models built, fresh and the reader's own."""

    pair: ModelPair
    probe: Probe
    layer_map: LayerMap

    @property
    def task(self) -> Task:
        """The task that is read."""
        return self.probe.task


@attrs.frozen
class Scene:
    """One pair and one task, and how they are looked at.

    Arguments:
        source, target: the models.
        task: what is read.
        batch_size: items read at a time.
        dtype: of both models.
        numbers: new number of every token, empty for the usual one.
        turned: both residual streams are turned by random rotations; both models are then Llamas
            whose norms have gain 1.
        plain: the same models, not turned.
    """

    source: ModelSpec
    target: ModelSpec
    task: Task = attrs.field(factory=lambda: words())
    batch_size: int = 64
    dtype: torch.dtype = torch.float32
    numbers: tuple[int, ...] = ()
    turned: bool = False
    plain: bool = False

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"

    def open(self) -> Opened:
        """Build the models and a probe that has read nothing yet."""
        models = []
        for side, spec in enumerate((self.source, self.target)):
            model = spec.plain() if self.plain or self.turned else spec.build()
            if self.turned:
                model = rotated(model, self.rotation(side))
            if self.numbers:
                model = renumbered(model, self.numbers)
            model.model.to(dtype=self.dtype)  # type: ignore[call-arg]
            models.append(model)
        models[0].model.requires_grad_(False)
        pair = ModelPair(*models)
        probe = Probe(pair, self.task, settings=ProbeSettings(batch_size=self.batch_size))
        return Opened(pair, probe, by_depth(pair))

    def rotation(self, side: int) -> Tensor:
        """Return by what the source's (0) or the target's (1) residual stream is turned."""
        spec = (self.source, self.target)[side]
        return random_rotation(spec.sizes["width"], seed=side)


_WIDE = {"width": 48, "blocks": 4, "heads": 6, "kv_heads": 3, "ffn": 72, "seed": 1}
_NARROW = {"width": 32, "blocks": 3, "heads": 4, "kv_heads": 2, "ffn": 48, "seed": 2}

GROUPED = (ModelSpec("llama", _WIDE), ModelSpec("llama", _NARROW))
"""A wider, deeper source; grouped queries on both sides, untied."""
MIXED = (
    ModelSpec("qwen2", {**_NARROW, "blocks": 2, "tied": True, "seed": 3}),
    ModelSpec("gpt2", {**_WIDE, "blocks": 3, "seed": 4}),
)
"""A narrower, shallower source with biases; a tied target with fused, transposed projections."""
TIED = (
    ModelSpec("qwen3", {**_WIDE, "seed": 5}),
    ModelSpec("qwen3", {**_NARROW, "tied": True, "seed": 6}),
)
"""One family with heads wider than their share and a tied target."""


def scenes(subject: Subject) -> Iterator[Scene]:
    """Yield the scenes that a law is tested on, always the same ones."""
    for source, target in (GROUPED, MIXED):
        yield Scene(source, target)
    if subject.thorough:
        yield Scene(*TIED)
        from pktkit.testing.strategies import drawn_pairs

        for source, target in drawn_pairs(MORE_PAIRS):
            yield Scene(source, target)


def on_scenes(
    subject: Subject, test: Callable[[Scene], None], given: Iterator[Scene] | None = None
) -> None:
    """Test a law on every scene that the component does not refuse.

    Raises:
        NotApplicable: it refuses all of them.
    """
    refusals, tested = [], 0
    for scene in scenes(subject) if given is None else given:
        try:
            test(scene)
            tested += 1
        except PairIncompatibleError as refusal:
            refusals.append(f"{scene}: {refusal}")
    if not tested:
        raise NotApplicable(f"every pair of the kit is refused. {refusals[0]}")


def turnable() -> Scene:
    """Return a scene of Llamas that can be turned."""
    return Scene(*GROUPED, plain=True)


def words(rows: Mapping[str, int] | None = None, *, length: int = 2) -> Task:
    """Build a task of tiny sentences over the tiny tokenizer, its splits disjoint.

    Arguments:
        rows: items per split.
        length: words of the longest answer.
    """
    splits, start = {}, 0
    for split, count in (ROWS if rows is None else rows).items():
        splits[split] = tuple(_item(start + i, length) for i in range(count))
        start += count
    return Task(
        name="tiny-words",
        splits=splits,
        evaluator=Choice("exact-match"),
        card=TaskCard("Tiny sentences without meaning.", "exact match", "by number"),
        max_new_tokens=3,
    )


def by_depth(pair: ModelPair) -> LayerMap:
    """Link every target block by depth, the last one to two source blocks where there are two."""
    source, target = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
    links = [LayerLink(t, (t * source // target,)) for t in range(target - 1)]
    last = (source - 1,) if source == 1 else (source - 2, source - 1)
    links.append(LayerLink(target - 1, last, (1.0,) if source == 1 else (0.25, 0.75)))
    return LayerMap(links, source, target, "kit")


def one_to_one(pair: ModelPair) -> LayerMap:
    """Link every block of two equally deep models with its like."""
    depth = pair.target.anatomy.n_blocks
    return LayerMap([LayerLink(i, (i,)) for i in range(depth)], depth, depth, "kit")


def other_numbers() -> tuple[int, ...]:
    """Return a permutation of token numbers that moves every ordinary token."""
    special = len(SPECIAL_TOKENS)
    return (*range(special), *(special + (i * 10 + 7) % WORDS for i in range(WORDS)))


def _item(number: int, length: int) -> Item:
    def word(i: int) -> str:
        return f"t{i % WORDS}"

    prompt = " ".join(word(number * 5 + 11 * i) for i in range(2 + number % 3))
    answer = " ".join(word(number * 7 + 3 * i + 1) for i in range(1 + number % length))
    others = (word(number * 7 + 2), f"{word(number + 3)} {word(number * 2 + 5)}")
    check = {"inputs": [[1, 2], [3]], "outputs": [[2, 1], [3]], "before": "", "after": "pass"}
    return Item(f"i{number}", prompt, answer, tuple(dict.fromkeys((answer, *others))), check)

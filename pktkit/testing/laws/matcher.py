"""Laws of layer matchers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import attrs
import torch

from pktkit.testing.laws import common
from pktkit.testing.laws.common import Observed, Test
from pktkit.testing.scenes import Opened, Scene, on_scenes, scenes
from pktkit.testing.subject import Subject
from pktkit.values import LayerMap


def matched(subject: Subject, opened: Opened) -> LayerMap:
    """Run the matcher, and check that it returns a layer map.

    Raises:
        LawViolation: it returns something else.
    """
    found = subject.build().match(opened.pair, opened.probe)
    subject.require(
        isinstance(found, LayerMap), f"it returned {type(found).__name__}, expected LayerMap."
    )
    return found


def observe(subject: Subject, opened: Opened) -> Observed:
    """Observe links, weights, and scores."""
    found = matched(subject, opened)
    values = {"weights": torch.tensor([w for link in found.links for w in link.weights])}
    if found.scores:
        values["scores"] = torch.tensor(found.scores, dtype=torch.float64)
    return Observed(
        values=values,
        plain=[(link.target, link.sources) for link in found.links],
        report={"note": found.note, "scores": found.scores, **found.diagnostics},
    )


def links_only(subject: Subject, opened: Opened) -> Observed:
    """Observe links and weights.

    Scores may depend on coordinates, and sums of products that nearly cancel on rounding.
    """
    seen = observe(subject, opened)
    return attrs.evolve(seen, values={"weights": seen.values["weights"]})


def in_range(subject: Subject) -> None:
    """Test the law of that name; `LayerMap` itself refuses links outside its own depths."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        found, pair = matched(subject, opened), opened.pair
        depths = pair.source.anatomy.n_blocks, pair.target.anatomy.n_blocks
        subject.require(
            (found.source_blocks, found.target_blocks) == depths,
            f"{scene}: its map is of {found.source_blocks} source and {found.target_blocks} target "
            f"blocks, the pair has {depths[0]} and {depths[1]}.",
        )
        subject.require(bool(found.links), f"{scene}: it links no block.")
        for link in found.links:
            subject.require(
                min(link.weights) >= 0 and abs(sum(link.weights) - 1) < 1e-6,
                f"{scene}: the weights of target block {link.target} are {link.weights}, expected "
                "numbers of at least 0 that sum to 1.",
            )

    on_scenes(subject, law)


def monotone(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        found = matched(subject, scene.open())
        ends = [(min(link.sources), max(link.sources)) for link in found.links]
        for above, below in itertools.pairwise(ends):
            subject.require(
                above[0] <= below[0] and above[1] <= below[1],
                f"{scene}: it goes back from source blocks {above} to {below}: {found}.",
            )

    on_scenes(subject, law)


def self_transfer(subject: Subject) -> None:
    """Test the law of that name: every linked block is linked with itself."""

    def law(scene: Scene) -> None:
        found = matched(subject, attrs.evolve(scene, target=scene.source).open())
        astray = [link for link in found.links if link.sources != (link.target,)]
        subject.require(
            not astray, f"{scene.source.family} matched with itself: {found}, expected i→i."
        )

    on_scenes(subject, law, scenes(subject))


TESTS: Mapping[str, Test] = {
    "options-round-trip": common.options_round_trip,
    "deterministic": common.deterministic(observe),
    "source-unchanged": common.unchanged(observe, "source"),
    "target-unchanged": common.unchanged(observe, "target"),
    "serialisable": common.serialisable(observe),
    "degenerate-data": common.degenerate_data(observe),
    "padding": common.padding(links_only),
    "item-order": common.item_order(links_only),
    "vocabulary-permutation": common.vocabulary_permutation(links_only),
    "rotation-equivariant": common.same_when_turned(links_only),
    "self-transfer": self_transfer,
    "in-range": in_range,
    "monotone": monotone,
}

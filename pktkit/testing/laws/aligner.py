"""Laws of latent aligners."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from pktkit.capabilities import Saving
from pktkit.components import Component
from pktkit.state_maps import unit_length
from pktkit.testing.laws import common
from pktkit.testing.laws.alignments import (
    TOKENS,
    aligned,
    for_drawn_states,
    mapped_width,
    observe,
    origin_states,
    part_of,
    target_states,
    updates_of,
)
from pktkit.testing.laws.common import TOLERANCE, Test, distance
from pktkit.testing.scenes import Opened, Scene, on_scenes, one_to_one, turnable
from pktkit.testing.subject import NotApplicable, Subject
from pktkit.values import Alignment, Origin, Space, TargetStates

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
EXACT = 1e-5
"""Relative; what single precision and another order of summation may cost within one map."""


def shapes(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        found = aligned(subject, opened)
        linked = {link.target for link in opened.layer_map.links}
        _require_content(subject, scene, found)
        if found.target_states is not None:
            _require_states(subject, scene, opened, found.target_states, linked)
        parameters = dict(opened.pair.target.model.named_parameters())
        for dense in found.dense:
            named = parameters.get(dense.parameter)
            subject.require(
                named is not None and named.shape == dense.value.shape,
                f"{scene}: a dense update of '{dense.parameter}' is {tuple(dense.value.shape)}, "
                f"the target has {'no such parameter' if named is None else tuple(named.shape)}.",
            )
        for low in found.low_rank:
            part = part_of(opened.pair.target, low.block, low.projection)
            product = (low.b.shape[0], low.a.shape[1])
            fits = low.b.shape[1] == low.a.shape[0] and product == tuple(part.shape)
            subject.require(
                fits,
                f"{scene}: the low-rank update of '{low.projection}' in block {low.block} is "
                f"{tuple(low.b.shape)} · {tuple(low.a.shape)}, its matrix {tuple(part.shape)}.",
            )
        for _ in updates_of(found, opened):
            pass  # a sparse update that does not fit says so itself

    on_scenes(subject, law)


def _require_content(subject: Subject, scene: Scene, found: Alignment) -> None:
    kinds = found.target_states, found.low_rank, found.dense, found.sparse, found.sparse_at
    subject.require(any(kinds), f"{scene}: its alignment holds neither states nor updates.")


def _require_states(
    subject: Subject, scene: Scene, opened: Opened, states: TargetStates, linked: set[int]
) -> None:
    astray = sorted(set(states.blocks) - linked)
    subject.require(not astray, f"{scene}: it maps target blocks {astray}, which are not linked.")
    subject.require(bool(states.blocks), f"{scene}: it maps no block.")
    given, width = origin_states(states, opened, seed=0), mapped_width(states, opened)
    for block in states.blocks:
        shape = tuple(states.states(block, given).shape)
        subject.require(
            shape == (TOKENS, width),
            f"{scene}: block {block} maps {TOKENS} tokens to {shape}, expected {(TOKENS, width)}.",
        )
    for block, readout in states.readouts.items():
        sizes = (readout.width_in, readout.width_out)
        expected = (opened.pair.target.anatomy.width, width)
        subject.require(
            sizes == expected, f"{scene}: the readout of block {block} is {sizes}, not {expected}."
        )


def dtype_device(subject: Subject) -> None:
    """Test the law of that name, on the GPU too where there is one."""

    def law(scene: Scene) -> None:
        for model_dtype in (torch.float32, torch.bfloat16):
            opened = attrs.evolve(scene, dtype=model_dtype).open()
            states = target_states(subject, opened)
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
                for dtype in DTYPES:
                    given = {
                        block: value.to(device, dtype)
                        for block, value in origin_states(states, opened, seed=0).items()
                    }
                    for block in states.blocks:
                        mapped = states.states(block, given)
                        subject.require(
                            mapped.dtype == dtype and mapped.device.type == device,
                            f"{scene} in {model_dtype}: states in {dtype} on {device} are mapped "
                            f"to {mapped.dtype} on {mapped.device.type}.",
                        )

    on_scenes(subject, law)


def finite(subject: Subject) -> None:
    """Test the law of that name on drawn states."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        states = target_states(subject, opened)
        for block in states.blocks:

            def holds(drawn: Tensor, block: int = block) -> None:
                mapped = _mapped(states, block, drawn)
                subject.require(
                    bool(mapped.isfinite().all()),
                    f"{scene}: block {block} maps finite states of size up to "
                    f"{float(drawn.abs().max()):.3g} to values that are not.",
                )

            for_drawn_states(subject, states, opened, holds)
        for name, value in updates_of(aligned(subject, opened), opened):
            subject.require(bool(value.isfinite().all()), f"{scene}: {name} is not finite.")

    def updates_only(scene: Scene) -> None:
        opened = scene.open()
        for name, value in updates_of(aligned(subject, opened), opened):
            subject.require(bool(value.isfinite().all()), f"{scene}: {name} is not finite.")

    try:
        on_scenes(subject, law)
    except NotApplicable:
        on_scenes(subject, updates_only)


def token_wise(subject: Subject) -> None:
    """Test the law of that name: permuted, and with other tokens beside."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        states = target_states(subject, opened)
        for block in states.blocks:
            drawn = origin_states(states, opened, seed=1)[0]
            extra = 50.0 * origin_states(states, opened, seed=2)[0]
            order = torch.arange(TOKENS).flip(0)
            alone = _mapped(states, block, drawn)
            for what, found in (
                ("in another order", _mapped(states, block, drawn[order])[order]),
                ("with others before", _mapped(states, block, torch.cat([extra, drawn]))[TOKENS:]),
                ("with padding", _mapped(states, block, torch.cat([drawn, 0 * extra]))[:TOKENS]),
            ):
                _near(subject, scene, block, what, alone, found)

    on_scenes(subject, law)


def affine(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened = scene.open()
        states = target_states(subject, opened)
        x, y = (origin_states(states, opened, seed=seed)[0] for seed in (1, 2))
        for block in states.blocks:
            for share in (0.25, -1.5):
                mixed = _mapped(states, block, share * x + (1 - share) * y)
                expected = share * _mapped(states, block, x)
                expected = expected + (1 - share) * _mapped(states, block, y)
                _near(subject, scene, block, f"a mean with weight {share}", expected, mixed)

    on_scenes(subject, law)


def homogeneous(subject: Subject) -> None:
    """Test the law of that name."""
    degree = subject.capabilities.homogeneous
    assert degree is not None

    def law(scene: Scene) -> None:
        opened = scene.open()
        states = target_states(subject, opened)
        x = origin_states(states, opened, seed=1)[0]
        for block in states.blocks:
            for factor in (0.01, 3.0, 1000.0):
                expected = factor**degree * _mapped(states, block, x)
                found = _mapped(states, block, factor * x)
                _near(subject, scene, block, f"a state times {factor:g}", expected, found)

    on_scenes(subject, law)


def rotation_equivariant(subject: Subject) -> None:
    """Test the law of that name."""

    def law(scene: Scene) -> None:
        opened, turned = scene.open(), attrs.evolve(scene, turned=True).open()
        straight, other = target_states(subject, opened), target_states(subject, turned)
        side = int(straight.origin is Origin.TARGET)
        into = side if straight.space is Space.ORIGIN else 1
        x = origin_states(straight, opened, seed=1)[0].double()
        for block in straight.blocks:
            expected = _mapped(straight, block, x) @ scene.rotation(into)
            found = _mapped(other, block, x @ scene.rotation(side))
            _near(subject, scene, block, "turning both spaces", expected, found, TOLERANCE)

    on_scenes(subject, law, iter([turnable()]))


def self_transfer(subject: Subject) -> None:
    """Test the law of that name: states of the fitted split, and updates beside their weights."""
    allowed = subject.capabilities.self_transfer_tolerance
    assert allowed is not None

    def law(scene: Scene) -> None:
        opened = attrs.evolve(scene, target=scene.source).open()
        opened = attrs.evolve(opened, layer_map=one_to_one(opened.pair))
        found = aligned(subject, opened)
        for what, error in _self_errors(subject, opened, found):
            subject.require(
                error <= allowed,
                f"{scene.source.family} aligned with itself: {what} differs by {error:.3g} of its "
                f"size, declared {allowed:g}.",
            )

    on_scenes(subject, law)


def _self_errors(subject: Subject, opened: Opened, found: Alignment) -> Iterator[tuple[str, float]]:
    """Yield how far a model aligned with itself is from what it was."""
    target, states = opened.pair.target, found.target_states
    if states is not None:
        reader = opened.probe.states(
            "align", states.origin_blocks, interface=states.interface, origin=states.origin
        )
        given = reader.read(range(len(opened.probe.encoded("align").items)))
        for block in states.blocks:
            own, mapped = given[block].float(), states.states(block, given).float()
            if subject.capabilities.homogeneous == 0:
                own, mapped = unit_length(own), unit_length(mapped)
            yield f"block {block}", float((mapped - own).norm() / own.norm())
    for dense in found.dense:
        own = target.model.get_parameter(dense.parameter).detach()
        yield dense.parameter, distance(own, dense.value)
    for low in found.low_rank:
        own = part_of(target, low.block, low.projection)
        added = low.scale * low.b.double() @ low.a.double()
        yield f"{low.projection} of block {low.block}", float(added.norm() / own.double().norm())


def saved_maps(subject: Subject) -> None:
    """Test the law of that name."""
    saving = subject.capabilities.saving
    assert isinstance(saving, Saving)
    reader: Any = Component("reader", saving.reader).load()

    def law(scene: Scene) -> None:
        opened = scene.open()
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "maps.safetensors")
            args = opened.pair, opened.layer_map, opened.probe
            written = subject.build(**{saving.option: path}).align(*args)
            read = reader(reader.Options(**{saving.reader_option: path})).align(*args)
            first, second = written.target_states, read.target_states
            subject.require(
                first.blocks == second.blocks,
                f"{scene}: maps of blocks {first.blocks} are read back as {second.blocks}.",
            )
            given = origin_states(first, opened, seed=0)
            for block in first.blocks:
                same = torch.equal(first.states(block, given), second.states(block, given))
                subject.require(
                    same, f"{scene}: the map of block {block} is another one when read back."
                )

    on_scenes(subject, law)


def _mapped(states: TargetStates, block: int, x: Tensor) -> Tensor:
    """Map states of one block by its own map, without mixing."""
    return states.maps[block](x)


def _near(
    subject: Subject,
    scene: Scene,
    block: int,
    what: str,
    expected: Tensor,
    found: Tensor,
    allowed: float = EXACT,
) -> None:
    error = distance(expected, found)
    subject.require(
        error <= allowed,
        f"{scene}: block {block}, {what}: off by {error:.3g} of the size, allowed {allowed:g}.",
    )


TESTS: Mapping[str, Test] = {
    "options-round-trip": common.options_round_trip,
    "deterministic": common.deterministic(observe),
    "source-unchanged": common.unchanged(observe, "source"),
    "target-unchanged": common.unchanged(observe, "target"),
    "serialisable": common.serialisable(observe),
    "degenerate-data": common.degenerate_data(observe),
    "padding": common.padding(observe),
    "item-order": common.item_order(observe),
    "vocabulary-permutation": common.vocabulary_permutation(observe),
    "rotation-equivariant": rotation_equivariant,
    "self-transfer": self_transfer,
    "shapes": shapes,
    "dtype-device": dtype_device,
    "finite": finite,
    "token-wise": token_wise,
    "affine": affine,
    "homogeneous": homogeneous,
    "saved-maps": saved_maps,
}

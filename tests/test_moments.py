"""Streamed second moments equal direct ones, however tokens and links are cut."""

from __future__ import annotations

import pytest
import torch
from given_states import (
    FEW,
    SEEDS,
    Given,
    covariance,
    drawn,
    moments,
    probe_tokens,
    related,
)
from hypothesis import given
from hypothesis import strategies as st
from tiny_transfers import layer_map, pair_of, word_task

from pktkit.activations.moments import PANEL, grouped, stream_moments
from pktkit.activations.paired import PairedStates
from pktkit.errors import DoesNotFitError
from pktkit.probe import Probe
from pktkit.values import Interface, LayerLink, LayerMap


@FEW
@given(
    seed=SEEDS,
    tokens=st.integers(2, 60),
    cuts=st.lists(st.integers(0, 1000), max_size=6),
    shift=st.sampled_from([0.0, 1e6]),
)
def test_streamed_moments_equal_direct_ones_however_tokens_are_cut(seed, tokens, cuts, shift):
    source, target = related(seed, tokens, 5, 3)
    found = moments(source + shift, target - shift, tuple(cuts))
    assert found.count == tokens
    # A shift of 1e6 would cost twelve digits in a difference of raw second moments.
    tolerance = {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(found.mean_source, source.mean(0) + shift, **tolerance)
    torch.testing.assert_close(found.mean_target, target.mean(0) - shift, **tolerance)
    torch.testing.assert_close(found.source, covariance(source, source), **tolerance)
    torch.testing.assert_close(found.target, covariance(target, target), **tolerance)
    torch.testing.assert_close(found.cross, covariance(target, source), **tolerance)


def test_covariances_wider_than_a_panel_are_whole():
    source, target = related(0, 40, PANEL + 70, 3)
    found = moments(source, target, (17,))
    torch.testing.assert_close(found.source, covariance(source, source))
    assert torch.equal(found.source, found.source.T)


@FEW
@given(seed=SEEDS, at_once=st.integers(1, 5))
def test_groups_within_a_byte_limit_change_nothing(seed, at_once):
    links = LayerMap(
        [
            LayerLink(0, (0,)),
            LayerLink(1, (0,)),
            LayerLink(2, (1, 2), (0.25, 0.75)),
            LayerLink(3, (2,)),
            LayerLink(4, (1, 2), (0.25, 0.75)),
        ],
        3,
        5,
        "given",
    )
    sources = {block: drawn(seed + block, 30, 4) for block in range(3)}
    targets = {block: drawn(seed + 10 + block, 30, 3) for block in range(5)}
    states = Given(sources, targets, [7, 19])
    together = dict(stream_moments(states, links, source=True, target=True))
    one = 8 * (3 * 4 + 3 * 3 + 4 * 4)
    apart = dict(stream_moments(states, links, source=True, target=True, max_bytes=at_once * one))
    assert list(apart) == list(links.links)
    for link, found in apart.items():
        for name in ("cross", "source", "target", "mean_source", "mean_target"):
            assert torch.equal(getattr(found, name), getattr(together[link], name)), name
    mixed = 0.25 * sources[1] + 0.75 * sources[2]
    torch.testing.assert_close(together[links.links[2]].source, covariance(mixed, mixed))


@given(
    sources=st.lists(st.integers(0, 4), min_size=1, max_size=12),
    max_bytes=st.integers(3000, 20_000),
    source=st.booleans(),
)
def test_no_group_needs_more_than_the_limit(sources, max_bytes, source):
    links = tuple(LayerLink(block, (index,)) for block, index in enumerate(sources))
    groups = grouped(
        links, width_source=10, width_target=9, source=source, target=True, max_bytes=max_bytes
    )
    assert tuple(link for group in groups for link in group) == links
    for group in groups:
        mixtures = {link.sources for link in group} if source else set()
        assert 8 * (len(group) * (90 + 81) + len(mixtures) * 100) <= max_bytes


def test_one_link_beyond_the_limit_is_refused_with_figures():
    with pytest.raises(DoesNotFitError, match=r"1024 → 512.*12\.0 MiB.*1\.0 MiB.*12582912"):
        grouped(
            [LayerLink(0, (0,))],
            width_source=1024,
            width_target=512,
            source=True,
            target=False,
            max_bytes=1 << 20,
        )


def test_states_can_be_paired_only_token_by_token():
    pair = pair_of("llama")
    probe = Probe(pair, word_task())
    paired = PairedStates(probe, "align", Interface.RESIDUAL)
    links = layer_map(pair, 0, 1, 3)
    assert paired.tokens == probe_tokens(probe)
    ((ours, theirs),) = paired.chunks(links)
    assert {len(states) for states in (*ours.values(), *theirs.values())} == {paired.tokens}
    torch.testing.assert_close(ours[2], probe.states("align", [3]).read(range(6))[3])
    other = dict.fromkeys(range(6), 0)
    ((ours, _),) = paired.chunks(links, rows=[3, 4], others=other)
    first = probe.states("align", [3]).read([0])[3]
    torch.testing.assert_close(ours[2][: len(first)], first)

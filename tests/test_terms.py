"""Layer terms: numbers worked out by hand, invariances, and behaviour at the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.activations.similarity import linear_cka
from pktkit_latent import fisher
from pktkit_latent.distances import (
    centred_cosine_distance,
    cka_distance,
    cosine_distance,
    mse_distance,
    relation_distance,
)
from pktkit_latent.fisher import fisher_distance, scaled_fisher_distance
from pktkit_latent.terms import LAYER_TERMS

seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(seed: int, width: int) -> torch.Tensor:
    return torch.linalg.qr(draw(seed, width, width).double())[0].float()


def opened(name: str, width: int = 5):
    return LAYER_TERMS[name].open(draw(99, 11, width))


def test_cosine_by_hand():
    states = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    wanted = torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert cosine_distance(states, wanted).item() == pytest.approx(1 - (24 / 25 + 0) / 2)
    weights = torch.tensor([0.5, 1.5])
    expected = (0.5 * (1 - 24 / 25) + 1.5 * 1) / 2
    assert cosine_distance(states, wanted, weights).item() == pytest.approx(expected)


def test_mse_by_hand():
    """Centred and scaled to unit variance, the two are (−1, 1) and (1, −1) in every channel."""
    states = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    assert mse_distance(states, -4 * states).item() == pytest.approx(4.0)
    assert mse_distance(states, 2 * states + 9).item() == pytest.approx(0.0, abs=1e-6)


def test_relation_by_hand():
    """Centred cosines: ours −1 off the diagonal; theirs, an equilateral triangle, −½."""
    states = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    height = 3**0.5 / 2
    wanted = torch.tensor([[1.0, 0.0], [-0.5, height], [-0.5, -height]])
    ours = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    theirs = torch.full((3, 3), -0.5).fill_diagonal_(1.0)
    expected = float((ours - theirs).square().mean())
    assert relation_distance(states, wanted).item() == pytest.approx(expected)


def test_cka_is_that_of_the_analysis():
    states, others = draw(1, 40, 6), draw(2, 40, 9)
    others[:, :6] += states
    assert cka_distance(states, others).item() == pytest.approx(1 - linear_cka(states, others))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, tokens=st.integers(3, 30), scale=st.floats(0.01, 100))
@pytest.mark.parametrize("distance", [relation_distance, cka_distance])
def test_relations_ignore_rotation_scale_and_shift(distance, seed, tokens, scale):
    states, wanted = draw(seed, tokens, 5), draw(seed + 1, tokens, 7)
    moved = scale * wanted @ rotation(seed, 7) + draw(seed + 2, 7)
    torch.testing.assert_close(
        distance(states, moved), distance(states, wanted), rtol=2e-3, atol=2e-4
    )


@given(seed=seeds, tokens=st.integers(2, 40))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("name", LAYER_TERMS)
def test_zero_at_equality_and_positive_elsewhere(name, seed, tokens):
    states, other = draw(seed, tokens, 5), draw(seed + 1, tokens, 5)
    distance = opened(name)
    assert distance(states, states.clone()).item() == pytest.approx(0, abs=1e-5)
    if tokens > 2:  # two centred tokens have one relation only
        assert distance(states, other).item() > 0


@pytest.mark.parametrize("tokens", [4, 60])
def test_both_ways_of_computing_relations_agree(tokens):
    """Few tokens go through token × token matrices, many through width × width ones."""
    states, wanted = draw(3, tokens, 8).requires_grad_(), draw(4, tokens, 6)
    ours, theirs = states.double(), wanted.double()
    ours, theirs = (x - x.mean(0) for x in (ours, theirs))
    ours, theirs = (x / x.norm(dim=1, keepdim=True) for x in (ours, theirs))
    brute = (ours @ ours.T - theirs @ theirs.T).square().mean()
    (expected,) = torch.autograd.grad(brute, states)
    (given_,) = torch.autograd.grad(relation_distance(states, wanted), states)
    assert relation_distance(states, wanted).item() == pytest.approx(brute.item(), rel=1e-4)
    torch.testing.assert_close(given_, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", LAYER_TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["zeros", "zero row", "tiny", "one token", "equal tokens"])
def test_values_and_gradients_are_finite_at_the_edges(name, dtype, case):
    states, wanted = draw(5, 6, 5), draw(6, 6, 5)
    if case == "zeros":
        states = torch.zeros_like(states)
    elif case == "zero row":
        states[2] = wanted[3] = 0
    elif case == "tiny":
        states, wanted = states * 1e-20, wanted * 1e-20
    elif case == "one token":
        states, wanted = states[:1], wanted[:1]
    else:
        states = states[:1].repeat(6, 1)
    states = states.to(dtype).requires_grad_()
    value = opened(name)(states, wanted.to(dtype))
    value.backward()
    assert value.isfinite() and states.grad.isfinite().all()


@pytest.mark.parametrize("name", [n for n, term in LAYER_TERMS.items() if term.paired])
def test_equal_weights_change_nothing_and_a_weight_of_zero_hides_a_token(name):
    states, wanted = draw(7, 6, 5), draw(8, 6, 5)
    distance = opened(name)
    torch.testing.assert_close(distance(states, wanted, torch.ones(6)), distance(states, wanted))
    alone = torch.tensor([6.0, 0, 0, 0, 0, 0])
    each = torch.stack([distance(states, wanted, alone.roll(i)) for i in range(6)])
    torch.testing.assert_close(each.mean(), distance(states, wanted))


@given(seed=seeds, scale=st.floats(0.01, 10))
@settings(max_examples=15, deadline=None)
def test_fisher_is_the_quadratic_form_of_the_softmax_fisher_matrix(seed, scale):
    head = draw(seed, 13, 5).double()
    states = (scale * draw(seed + 1, 7, 5)).requires_grad_()
    wanted = scale * draw(seed + 2, 7, 5)
    brute = states.new_zeros((), dtype=torch.float64)
    for state, other in zip(states.double(), wanted.double(), strict=True):
        p = (head @ other).softmax(0)
        delta = head @ state - head @ other
        brute = brute + 0.5 * delta @ (p.diag() - p[:, None] * p) @ delta / 7
    value = fisher_distance(head.float())(states, wanted)
    assert value.item() == pytest.approx(brute.item(), rel=1e-3, abs=1e-6)
    (expected,) = torch.autograd.grad(brute, states)
    (gradient,) = torch.autograd.grad(value, states)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_fisher_ignores_a_constant_added_to_all_logits():
    head, states, wanted = draw(1, 13, 5), draw(2, 7, 5), draw(3, 7, 5)
    raised = head + draw(4, 5)  # adds u·h to every token's logit
    torch.testing.assert_close(
        fisher_distance(raised)(states, wanted), fisher_distance(head)(states, wanted)
    )


@given(seed=seeds, scale=st.floats(1e-3, 1e3))
@settings(max_examples=15, deadline=None)
def test_scaled_fisher_ignores_the_length_of_aligned_states_only(seed, scale):
    distance = scaled_fisher_distance(draw(seed, 13, 5))
    states, wanted = draw(seed + 1, 7, 5), draw(seed + 2, 7, 5)
    torch.testing.assert_close(distance(states, scale * wanted), distance(states, wanted))
    assert distance(states, scale * states).item() == pytest.approx(0, abs=1e-5)
    level = wanted * (states.norm() / wanted.norm())
    plain = fisher_distance(draw(seed, 13, 5))
    torch.testing.assert_close(distance(states, wanted), plain(states, level))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fisher_in_pieces_is_fisher_in_one(monkeypatch, dtype):
    head = draw(1, 130, 5).to(dtype)
    states, wanted, weights = draw(2, 9, 5).requires_grad_(), draw(3, 9, 5), draw(4, 9).abs()
    whole = fisher_distance(head)(states, wanted, weights)
    (expected,) = torch.autograd.grad(whole, states)
    monkeypatch.setattr(fisher, "ENTRIES", 2 * 130 + 7)
    pieces = fisher_distance(head)(states, wanted, weights)
    (gradient,) = torch.autograd.grad(3 * pieces, states)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(gradient, 3 * expected)


def test_fisher_never_holds_more_than_its_chunks(monkeypatch):
    """No tensor in its forward or backward pass has more entries than a chunk allows."""
    limit = 4 * 200
    monkeypatch.setattr(fisher, "ENTRIES", limit)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    head, states, wanted = draw(1, 200, 3), draw(2, 50, 3).requires_grad_(), draw(3, 50, 3)
    with Watch():
        fisher_distance(head)(states, wanted).backward()
    assert largest <= limit
    assert states.grad.abs().sum() > 0


@pytest.mark.parametrize("magnitude", [1e4, 1e8])
def test_fisher_of_huge_logits_is_no_nan(magnitude):
    head = draw(1, 13, 5)
    states = (magnitude * draw(2, 7, 5)).requires_grad_()
    value = fisher_distance(head)(states, -magnitude * draw(3, 7, 5))
    value.backward()
    assert not value.isnan() and not states.grad.isnan().any()


def test_centring_is_what_makes_the_cosine_centred():
    states, wanted = draw(1, 6, 5) + 30, draw(2, 6, 5) + 30
    assert cosine_distance(states, wanted) < 0.1
    torch.testing.assert_close(
        centred_cosine_distance(states, wanted),
        cosine_distance(states - states.mean(0), wanted - wanted.mean(0)),
    )


@pytest.mark.parametrize("name", LAYER_TERMS)
@pytest.mark.parametrize("tokens", [4, 60])
def test_several_blocks_give_their_mean(name, tokens):
    states, wanted = draw(1, 3, tokens, 5), draw(2, 3, tokens, 5)
    states[1] *= 20
    distance = opened(name)
    each = torch.stack([distance(s, w) for s, w in zip(states, wanted, strict=True)])
    torch.testing.assert_close(distance(states, wanted), each.mean())
    if LAYER_TERMS[name].paired:
        weights = draw(3, tokens).abs()
        each = torch.stack([distance(s, w, weights) for s, w in zip(states, wanted, strict=True)])
        torch.testing.assert_close(distance(states, wanted, weights), each.mean())

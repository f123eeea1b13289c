"""What the mathematics promises, on states made by hand."""

import pytest
import torch
from pktkit_rotate.resistant import WeightedSums, biweight, huber, token_weights

SOURCE, TARGET, TOKENS = 12, 16, 400


def orthonormal(rows, columns, seed):
    draw = torch.randn(
        rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    return torch.linalg.qr(draw).Q


def normal(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fitted(ours, theirs, weights=None, chunk=None):
    sums = WeightedSums()
    weights = torch.ones(len(ours)) if weights is None else weights
    for part in torch.arange(len(ours)).split(chunk or len(ours)):
        sums.add(ours[part], theirs[part], weights[part])
    return sums.rotation()


def reweighted(ours, theirs, loss="huber", cutoff=2.0, iterations=50):
    rotation = fitted(ours, theirs)
    for _ in range(iterations):
        lengths = (theirs - rotation(ours)).norm(dim=1)
        rotation = fitted(ours, theirs, token_weights(lengths, loss, cutoff))
    return rotation


@pytest.fixture
def turned():
    """States, and the same states turned, scaled and shifted into a wider space."""
    rotation = orthonormal(TARGET, SOURCE, seed=1)
    ours = normal(TOKENS, SOURCE, seed=2) + 5
    return rotation, ours, 3 * ours @ rotation.T + normal(TARGET, seed=3)


def test_a_rotation_with_scale_and_shift_is_recovered(turned):
    rotation, ours, theirs = turned
    found = fitted(ours, theirs)
    torch.testing.assert_close(found.matrix, 3 * rotation)
    torch.testing.assert_close(found(ours), theirs)


def test_chunks_and_the_scale_of_weights_change_nothing(turned):
    _, ours, theirs = turned
    theirs = theirs + normal(TOKENS, TARGET, seed=4)
    weights = torch.rand(TOKENS, generator=torch.Generator().manual_seed(5)).double()
    whole, parts = fitted(ours, theirs, weights), fitted(ours, theirs, 7 * weights, chunk=33)
    torch.testing.assert_close(parts.matrix, whole.matrix)
    torch.testing.assert_close(parts(ours), whole(ours))


def test_a_weight_of_two_is_the_token_twice(turned):
    _, ours, theirs = turned
    theirs = theirs + normal(TOKENS, TARGET, seed=4)
    twice = fitted(torch.cat([ours, ours[:50]]), torch.cat([theirs, theirs[:50]]))
    weights = torch.ones(TOKENS)
    weights[:50] = 2
    torch.testing.assert_close(fitted(ours, theirs, weights).matrix, twice.matrix)


@pytest.mark.parametrize("loss", ["huber", "biweight"])
def test_a_few_huge_tokens_turn_least_squares_but_not_the_resistant_fit(turned, loss):
    rotation, ours, theirs = turned
    theirs = theirs + 0.1 * normal(TOKENS, TARGET, seed=6)
    theirs[:8] += 1000 * normal(TARGET, seed=7)
    wrong = (fitted(ours, theirs).matrix / 3 - rotation).norm() / rotation.norm()
    right = (reweighted(ours, theirs, loss).matrix / 3 - rotation).norm() / rotation.norm()
    assert wrong > 0.5
    assert right < 0.05


def test_every_renewal_lowers_the_huber_loss(turned):
    _, ours, theirs = turned
    theirs = theirs + normal(TOKENS, TARGET, seed=8) * torch.linspace(0.1, 30, TOKENS)[:, None] ** 2
    rotation, before = fitted(ours, theirs), float("inf")
    unit = float((theirs - rotation(ours)).norm(dim=1).median())
    for _ in range(6):
        lengths = (theirs - rotation(ours)).norm(dim=1) / unit
        loss = float(torch.where(lengths < 1, lengths**2 / 2, lengths - 0.5).sum())
        assert loss <= before * (1 + 1e-12)
        before = loss
        rotation = fitted(ours, theirs, huber(lengths))


def test_weights_by_hand():
    lengths = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    assert huber(lengths).tolist() == [1, 1, 1, 0.5, 0.25]
    assert biweight(lengths).tolist() == [1, 0.5625, 0, 0, 0]
    assert token_weights(lengths, "huber", 2.0).tolist() == [1, 1, 1, 1, 0.5]


def test_a_perfect_fit_leaves_every_weight_at_one():
    assert token_weights(torch.zeros(3), "biweight", 2.0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("loss", ["huber", "biweight"])
def test_at_least_half_of_the_tokens_count_whatever_the_lengths(loss):
    for lengths in (torch.ones(6), torch.logspace(-9, 9, 7), torch.tensor([0.0, 0.0, 1.0])):
        weights = token_weights(lengths.double(), loss, cutoff=1.01)
        assert int((weights > 0).sum()) * 2 >= len(weights)
        assert bool(((weights >= 0) & (weights <= 1)).all())


def test_effective_tokens():
    sums = WeightedSums()
    sums.add(normal(4, 3, seed=1), normal(4, 2, seed=2), torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert sums.effective_tokens == pytest.approx(2)


def test_directions_without_cross_covariance_go_to_zero():
    ours = normal(30, 4, seed=1)
    ours[:, 3] = 0
    theirs = ours @ orthonormal(4, 4, seed=2).T
    assert fitted(ours, theirs).matrix[:, 3].abs().max() < 1e-12

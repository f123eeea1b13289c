"""Laws of the vocabulary-defined maps, and agreement with a direct fp64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.state_maps import AffineMap
from pktkit_latent.aligners.placebo import random_like
from pktkit_latent.maps import MAPS, Heads
from pktkit_latent.spectral import RANK_TOLERANCE

FEW = settings(max_examples=25, deadline=None)


@st.composite
def heads(draw: st.DrawFn) -> Heads:
    """Two random heads over one vocabulary, of unequal width, with some zero rows."""
    seed = draw(st.integers(0, 2**31))
    d_source, d_target = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    tokens = draw(st.integers(16, 40))
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(tokens, d_source, dtype=torch.float64, generator=generator)
    target = torch.randn(tokens, d_target, dtype=torch.float64, generator=generator)
    if draw(st.booleans()):
        source[0], target[0] = 0, 0
    return Heads(source, target)


def generator_for(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(width: int, seed: int) -> torch.Tensor:
    noise = torch.randn(width, width, dtype=torch.float64, generator=generator_for(seed))
    return torch.linalg.qr(noise)[0]


def reference(name: str, pair: Heads) -> torch.Tensor:
    """The equations as written, with explicit pseudo-inverses and V-sized bases."""
    w_source, w_target = pair.source.double(), pair.target.double()
    s_source, s_target = torch.linalg.pinv(w_source), torch.linalg.pinv(w_target)
    if name == "lens":
        return s_target @ w_source
    s_source[:, w_source.abs().sum(1) == 0] = 0  # a zero row has noise for a basis vector
    s_target[:, w_target.abs().sum(1) == 0] = 0
    unit_source = torch.nn.functional.normalize(s_source, dim=0, eps=1e-300)
    unit_target = torch.nn.functional.normalize(s_target, dim=0, eps=1e-300)
    cross = unit_target @ unit_source.T
    frame_source, frame_target = unit_source @ unit_source.T, unit_target @ unit_target.T
    if name == "unit":
        return cross
    if name == "dual":
        return torch.linalg.pinv(frame_target) @ cross

    def inverse_root(matrix: torch.Tensor) -> torch.Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ torch.diag(values**-0.5) @ vectors.T

    return inverse_root(frame_target) @ cross @ inverse_root(frame_source)


@pytest.mark.parametrize("name", MAPS)
@FEW
@given(pair=heads())
def test_agrees_with_the_equations(name: str, pair: Heads) -> None:
    torch.testing.assert_close(MAPS[name](pair), reference(name, pair), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MAPS)
@FEW
@given(pair=heads(), seed=st.integers(0, 2**31))
def test_joint_permutation_of_the_vocabulary_changes_nothing(
    name: str, pair: Heads, seed: int
) -> None:
    order = torch.randperm(pair.source.shape[0], generator=generator_for(seed))
    permuted = Heads(pair.source[order], pair.target[order])
    torch.testing.assert_close(MAPS[name](permuted), MAPS[name](pair), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MAPS)
@FEW
@given(pair=heads(), seed=st.integers(0, 2**31))
def test_rotating_the_source_space_rotates_the_map(name: str, pair: Heads, seed: int) -> None:
    turn = rotation(pair.source.shape[1], seed)
    turned = Heads(pair.source @ turn, pair.target)
    torch.testing.assert_close(MAPS[name](turned), MAPS[name](pair) @ turn, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MAPS)
@FEW
@given(pair=heads(), seed=st.integers(0, 2**31))
def test_rotating_the_target_space_rotates_the_map(name: str, pair: Heads, seed: int) -> None:
    turn = rotation(pair.target.shape[1], seed)
    turned = Heads(pair.source, pair.target @ turn)
    torch.testing.assert_close(MAPS[name](turned), turn.T @ MAPS[name](pair), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["tight", "lens"])
@FEW
@given(pair=heads())
def test_self_recomposition_is_the_identity(name: str, pair: Heads) -> None:
    own = MAPS[name](Heads(pair.source, pair.source))
    torch.testing.assert_close(own, torch.eye(len(own), dtype=torch.float64), rtol=1e-8, atol=1e-8)


@FEW
@given(pair=heads(), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**31))
def test_the_length_of_the_source_state_does_not_matter(
    pair: Heads, scale: float, seed: int
) -> None:
    mapped = AffineMap(MAPS["unit"](pair), normalise=True)
    states = torch.randn(
        5, pair.source.shape[1], dtype=torch.float64, generator=generator_for(seed)
    )
    torch.testing.assert_close(mapped(states * scale), mapped(states), rtol=1e-9, atol=1e-12)


@FEW
@given(pair=heads(), a=st.floats(-3, 3), b=st.floats(-3, 3), seed=st.integers(0, 2**31))
def test_linear_before_normalisation(pair: Heads, a: float, b: float, seed: int) -> None:
    mapped = AffineMap(MAPS["unit"](pair))
    x, y = torch.randn(
        2, 4, pair.source.shape[1], dtype=torch.float64, generator=generator_for(seed)
    )
    torch.testing.assert_close(mapped(a * x + b * y), a * mapped(x) + b * mapped(y))


@FEW
@given(pair=heads(), seed=st.integers(0, 2**31))
def test_permuting_tokens_permutes_their_images(pair: Heads, seed: int) -> None:
    mapped = AffineMap(MAPS["unit"](pair), normalise=True)
    states = torch.randn(7, pair.source.shape[1], generator=generator_for(seed))
    order = torch.randperm(7, generator=generator_for(seed))
    torch.testing.assert_close(mapped(states[order]), mapped(states)[order])
    torch.testing.assert_close(mapped(states[:3]), mapped(states)[:3])


@pytest.mark.parametrize("name", MAPS)
@FEW
@given(pair=heads())
def test_zero_rows_and_zero_states_stay_finite(name: str, pair: Heads) -> None:
    padded = Heads(
        torch.cat([pair.source, torch.zeros(3, pair.source.shape[1])]),
        torch.cat([pair.target, torch.zeros(3, pair.target.shape[1])]),
    )
    matrix = MAPS[name](padded)
    torch.testing.assert_close(matrix, MAPS[name](pair), rtol=1e-8, atol=1e-10)
    image = AffineMap(matrix, normalise=True)(torch.zeros(2, pair.source.shape[1]))
    assert torch.equal(image, torch.zeros(2, pair.target.shape[1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_device_of_the_states_are_kept(dtype: torch.dtype) -> None:
    pair = Heads(torch.randn(30, 6), torch.randn(30, 4))
    image = AffineMap(MAPS["unit"](pair), normalise=True)(torch.randn(5, 6, dtype=dtype))
    assert image.dtype == dtype
    assert image.device.type == "cpu"
    assert bool(image.isfinite().all())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_states_do_not_overflow(size: float) -> None:
    pair = Heads(torch.randn(30, 6), torch.randn(30, 4))
    mapped, states = AffineMap(MAPS["unit"](pair), normalise=True), torch.randn(5, 6)
    torch.testing.assert_close(mapped(states * size), mapped(states), rtol=1e-4, atol=1e-5)


def test_rank_deficient_heads_use_the_pseudo_inverse() -> None:
    narrow = torch.randn(50, 3, dtype=torch.float64, generator=generator_for(0))
    wide = narrow @ torch.randn(3, 8, dtype=torch.float64, generator=generator_for(1))
    target = torch.randn(50, 5, dtype=torch.float64, generator=generator_for(2))
    pair = Heads(wide, target)
    expected = torch.linalg.pinv(target) @ wide
    torch.testing.assert_close(MAPS["lens"](pair), expected, rtol=1e-8, atol=1e-9)
    assert bool(MAPS["tight"](pair).isfinite().all())


def test_small_singular_values_are_kept() -> None:
    """The default tolerance of `pinv` in single precision would drop half of these directions."""
    width = 32
    scales = torch.logspace(0, -4, width, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(400, width, dtype=torch.float64))[0]
    head = left @ torch.diag(scales) @ rotation(width, 3)
    assert float(scales.min() ** 2) > RANK_TOLERANCE
    own = MAPS["lens"](Heads(head, head))
    torch.testing.assert_close(own, torch.eye(width, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_bf16_heads_agree_with_fp64_to_a_millionth() -> None:
    """`benchmarks/semantic_map.py` checks the same at V = 32,000, 2048 → 1024."""
    source = torch.randn(4_000, 256, generator=generator_for(0)) * torch.logspace(0, -2, 256)
    target = torch.randn(4_000, 128, generator=generator_for(1)) * torch.logspace(0, -2, 128)
    pair = Heads(source.bfloat16(), target.bfloat16())
    found, expected = MAPS["unit"](pair), reference("unit", pair)
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@FEW
@given(pair=heads(), seed=st.integers(0, 2**31))
def test_the_random_placebo_has_the_same_norm_and_another_meaning(pair: Heads, seed: int) -> None:
    matrix = MAPS["unit"](pair)
    placebo = random_like(matrix, seed)
    assert placebo.shape == matrix.shape
    torch.testing.assert_close(placebo.norm(), matrix.norm())
    assert not torch.allclose(placebo, matrix)
    assert torch.equal(placebo, random_like(matrix, seed))

"""Sampling: reproducible, independent of the batch, and distributed as asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.decoding import Decoding, generators, next_tokens
from pktkit.generation import generate
from pktkit.pair import LoadedModel
from pktkit.testing import tiny_loaded


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


def draw(logits: torch.Tensor, decoding: Decoding, count: int) -> torch.Tensor:
    rows = logits[None].expand(count, -1)
    return next_tokens(rows, decoding, generators([[1, 2]] * count, decoding.seed))


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.05, 0.3, 0.15])
    found = draw(probabilities.log(), Decoding(temperature=1.0), 4000)
    shares = torch.bincount(found, minlength=4) / 4000
    # Four standard errors of the largest share.
    assert (shares - probabilities).abs().max() < 4 * 0.5 / 4000**0.5


def test_temperature_squares_the_odds_at_one_half() -> None:
    found = draw(torch.tensor([0.6, 0.4]).log(), Decoding(temperature=0.5), 4000)
    assert float((found == 0).double().mean()) == pytest.approx(0.36 / 0.52, abs=0.032)


def test_nucleus_leaves_the_tail_out() -> None:
    logits = torch.tensor([0.5, 0.05, 0.3, 0.15]).log()
    assert set(draw(logits, Decoding(1.0, 0.79), 500).tolist()) == {0, 2}
    assert set(draw(logits, Decoding(1.0, 0.81), 500).tolist()) == {0, 2, 3}
    assert set(draw(logits, Decoding(1.0, 1e-9), 50).tolist()) == {0}


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.floats(0.05, 3), st.floats(0.01, 1)
)
@settings(max_examples=50, deadline=None)
def test_a_drawn_token_is_in_the_nucleus(raw: list[float], temperature: float, p: float) -> None:
    logits = torch.tensor(raw)
    probabilities = (logits / temperature).softmax(-1).double()
    for token in draw(logits, Decoding(temperature, p), 5).tolist():
        likelier = probabilities[probabilities > probabilities[token]].sum()
        assert likelier < p + 1e-6


def test_samples_depend_on_seed_and_prompt_not_on_the_batch(llama: LoadedModel) -> None:
    prompts = ["t1 t2 t3", "t4", "t1 t2 t3", "t5 t6"]
    hot = Decoding(temperature=2.0, seed=3)
    together = generate(llama, prompts, max_new_tokens=8, decoding=hot)
    assert together[0] != together[2]
    assert generate(llama, prompts, max_new_tokens=8, decoding=hot, batch_tokens=1) == together
    alone = [generate(llama, [p], max_new_tokens=8, decoding=hot)[0] for p in prompts[:2]]
    assert alone == together[:2]
    other = generate(llama, prompts, max_new_tokens=8, decoding=Decoding(2.0, seed=4))
    assert other != together


def test_cold_sampling_is_greedy(llama: LoadedModel) -> None:
    prompts = ["t1 t2 t3", "t4"]
    cold = Decoding(temperature=1e-4)
    greedy = generate(llama, prompts, max_new_tokens=6)
    assert generate(llama, prompts, max_new_tokens=6, decoding=cold) == greedy


def test_begins_and_stops(llama: LoadedModel) -> None:
    prompts = [f"t{i} t{i + 1}" for i in range(12)]
    free = generate(llama, prompts, max_new_tokens=6)
    first, second = [p.split()[0] for p in prompts], [p.split()[1] for p in prompts]
    assert generate(llama, first, max_new_tokens=6, begins=second) == free
    stop = next(text.split()[2] for text in free if len(text.split()) == 6)
    stopped = generate(llama, prompts, max_new_tokens=6, decoding=Decoding(stops=(stop,)))
    assert stopped == [text.partition(stop)[0].strip() for text in free] != free


def test_answers_end_before_the_first_stop() -> None:
    decoding = Decoding(stops=("\ndef", "\nclass"), trim=False)
    assert decoding.cut("    return 1\nclass A:\n\ndef f") == "    return 1"
    assert Decoding(stops=("x",)).cut(" ab x ") == "ab"

"""Sampling: reproducible, independent of the batch, and distributed as asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit.inference.generation import Ending, generate
from pktkit.inference.sampling import Sampling
from pktkit.pair import LoadedModel
from pktkit.testing import tiny_loaded


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


def draw(logits: torch.Tensor, sampling: Sampling, count: int) -> torch.Tensor:
    pick = sampling.picking(sampling.streams([[1, 2]] * count))
    return pick(logits[None].expand(count, -1), range(count))


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.05, 0.3, 0.15])
    found = draw(probabilities.log(), Sampling(temperature=1.0), 4000)
    shares = torch.bincount(found, minlength=4) / 4000
    # Four standard errors of the largest share.
    assert (shares - probabilities).abs().max() < 4 * 0.5 / 4000**0.5


def test_temperature_squares_the_odds_at_one_half() -> None:
    found = draw(torch.tensor([0.6, 0.4]).log(), Sampling(temperature=0.5), 4000)
    assert float((found == 0).double().mean()) == pytest.approx(0.36 / 0.52, abs=0.032)


def test_nucleus_leaves_the_tail_out() -> None:
    logits = torch.tensor([0.5, 0.05, 0.3, 0.15]).log()
    assert set(draw(logits, Sampling(1.0, 0.79), 500).tolist()) == {0, 2}
    assert set(draw(logits, Sampling(1.0, 0.81), 500).tolist()) == {0, 2, 3}
    assert set(draw(logits, Sampling(1.0, 1e-9), 50).tolist()) == {0}


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.floats(0.05, 3), st.floats(0.01, 1)
)
@settings(max_examples=50, deadline=None)
def test_a_drawn_token_is_in_the_nucleus(raw: list[float], temperature: float, p: float) -> None:
    logits = torch.tensor(raw)
    probabilities = (logits / temperature).softmax(-1).double()
    for token in draw(logits, Sampling(temperature, p), 5).tolist():
        likelier = probabilities[probabilities > probabilities[token]].sum()
        assert likelier < p + 1e-6


def test_samples_depend_on_seed_and_prompt_not_on_the_batch(llama: LoadedModel) -> None:
    prompts = ["t1 t2 t3", "t4", "t1 t2 t3", "t5 t6"]
    hot = Sampling(temperature=2.0, seed=3)
    together = generate(llama, prompts, max_new_tokens=8, sampling=hot)
    assert together[0] != together[2]
    assert generate(llama, prompts, max_new_tokens=8, sampling=hot, batch_tokens=1) == together
    alone = [generate(llama, [p], max_new_tokens=8, sampling=hot)[0] for p in prompts[:2]]
    assert alone == together[:2]
    other = generate(llama, prompts, max_new_tokens=8, sampling=Sampling(2.0, seed=4))
    assert other != together


def test_cold_sampling_is_greedy(llama: LoadedModel) -> None:
    prompts = ["t1 t2 t3", "t4"]
    cold = Sampling(temperature=1e-4)
    greedy = generate(llama, prompts, max_new_tokens=6)
    assert generate(llama, prompts, max_new_tokens=6, sampling=cold) == greedy


def test_answers_are_begun_for_the_model(llama: LoadedModel) -> None:
    prompts = [f"t{i} t{i + 1}" for i in range(12)]
    free = generate(llama, prompts, max_new_tokens=6)
    first, second = [p.split()[0] for p in prompts], [p.split()[1] for p in prompts]
    assert generate(llama, first, max_new_tokens=6, begins=second) == free


def test_indentation_is_kept_by_a_tokenizer_that_drops_leading_spaces() -> None:
    class Dropping:
        pieces = ("def f():\n", "    ", "return", " 1")

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return "".join(self.pieces[i] for i in ids).removeprefix(" ")

    ending = Ending(Dropping(), frozenset())
    assert ending.text([1, 2, 3]) == "   return 1"
    assert ending.text([1, 2, 3], after=[0]) == "    return 1"

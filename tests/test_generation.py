"""Batched generation and likelihoods equal what each prompt gives alone."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_tokenizers import byte_level

from pktkit.encoding import encode_item, template
from pktkit.errors import DoesNotFitError, UsageError
from pktkit.inference import batching, prefixes
from pktkit.inference.batching import Cost, Load, run_in_batches
from pktkit.inference.generation import (
    continuation_logprobs,
    end_ids,
    generate,
    score_continuations,
)
from pktkit.pair import LoadedModel
from pktkit.tasks.base import Item
from pktkit.testing import tiny_loaded
from pktkit.testing.models import FAMILIES

LEARNED_POSITIONS = ("gpt2", "opt")
CHECKED = (*LEARNED_POSITIONS, "llama", "gemma2")
SIZES = {"gemma2": {"sliding_window": 6}, "opt": {"max_position_embeddings": 64}}


def prompts(count: int, longest: int = 12) -> list[str]:
    rng = random.Random(3)
    return [
        " ".join(f"t{rng.randrange(57)}" for _ in range(rng.randint(1, longest)))
        for _ in range(count)
    ]


@pytest.fixture(scope="module", params=CHECKED)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return tiny_loaded(request.param, blocks=2, **SIZES.get(request.param, {}))


@pytest.fixture(scope="module")
def llama() -> LoadedModel:
    return tiny_loaded("llama", blocks=2)


def by_hand(model: LoadedModel, prompt: str, steps: int) -> str:
    """Generate without padding, cache or batches."""
    ids = model.tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        for _ in range(steps):
            token = int(model.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            ids = [*ids, token]
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_batched_equals_one_by_one(loaded: LoadedModel) -> None:
    texts = prompts(16)
    assert len({len(text.split()) for text in texts}) > 4
    expected = [by_hand(loaded, text, 6) for text in texts]
    assert generate(loaded, texts, max_new_tokens=6) == expected
    assert generate(loaded, texts, max_new_tokens=6, batch_tokens=64) == expected
    assert [generate(loaded, [text], max_new_tokens=6)[0] for text in texts] == expected
    assert len(set(expected)) > 4


def test_one_new_token(loaded: LoadedModel) -> None:
    texts = prompts(9)
    assert generate(loaded, texts, max_new_tokens=1) == [by_hand(loaded, t, 1) for t in texts]


def test_answers_end_at_the_end_of_sequence(llama: LoadedModel) -> None:
    texts = prompts(24)
    lengths = {len(answer.split()) for answer in generate(llama, texts, max_new_tokens=30)}
    full = [by_hand(llama, text, 30) for text in texts]
    assert generate(llama, texts, max_new_tokens=30) == full
    assert len(lengths) > 2 and min(lengths) < 20, "some rows must end early, at different steps"


def test_several_ends_of_sequence() -> None:
    model = tiny_loaded("llama", blocks=2)
    assert end_ids(model) == {2}
    assert model.model.generation_config is not None
    model.model.generation_config.eos_token_id = [2, 3, 17]
    assert end_ids(model) == {2, 3}, "17 is an ordinary token of this tokenizer"


@pytest.mark.parametrize("family", LEARNED_POSITIONS)
def test_generation_stops_at_the_last_position(family: str) -> None:
    size = {"gpt2": "n_positions", "opt": "max_position_embeddings"}[family]
    model = tiny_loaded(family, blocks=2, **{size: 32})
    texts = ["t1", " ".join(["t5"] * 27)]
    alone = [generate(model, [text], max_new_tokens=50)[0] for text in texts]
    assert generate(model, texts, max_new_tokens=50) == alone
    assert len(alone[1].split()) <= 4
    with pytest.raises(UsageError, match=r"prompt 0 has 33 tokens.*32 positions"):
        generate(model, [" ".join(["t5"] * 32)], max_new_tokens=1)


def test_order_empty_input_and_bad_numbers(llama: LoadedModel) -> None:
    texts = prompts(10)
    answers = generate(llama, texts, max_new_tokens=4)
    assert generate(llama, texts[::-1], max_new_tokens=4) == answers[::-1]
    assert generate(llama, [], max_new_tokens=4) == []
    with pytest.raises(UsageError, match="at least 1"):
        generate(llama, texts, max_new_tokens=0)


def test_training_mode_is_put_back() -> None:
    model = tiny_loaded("llama", blocks=2)
    model.model.train()
    generate(model, ["t1"], max_new_tokens=2)
    assert model.model.training


def test_continuations_equal_one_forward_pass_each(loaded: LoadedModel) -> None:
    texts = prompts(6)
    choices = [["t1", "t2", "t3 t4", "t3 t5"], ["t9 t9 t9"], *([["t7", "t8"]] * 4)]
    scored = continuation_logprobs(loaded, texts, choices)
    for prompt, row, values in zip(texts, choices, scored, strict=True):
        for choice, value in zip(row, values, strict=True):
            item = encode_item(loaded.tokenizer, Item("x", prompt, choice), template("plain"), 99)
            assert item is not None
            ids = torch.tensor([item.input_ids[:-1]])
            with torch.no_grad():
                logprobs = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
            places = range(item.supervised - 1, ids.shape[1] - 1)
            expected = sum(float(logprobs[i, ids[0, i + 1]]) for i in places)
            assert value == pytest.approx(expected, abs=1e-4)


def test_continuations_count_tokens_and_share_contexts(llama: LoadedModel) -> None:
    calls = []
    handle = llama.model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append(kwargs["input_ids"].shape[0]),
        with_kwargs=True,
    )
    try:
        scored = score_continuations(llama, ["t1 t2"], [["t3", "t4", "t5 t6 t7"]])
    finally:
        handle.remove()
    assert [c.tokens for c in scored[0]] == [1, 1, 3]
    assert calls == [1, 1] or calls == [2]


def test_choice_without_tokens_is_refused(llama: LoadedModel) -> None:
    with pytest.raises(UsageError, match="has no tokens to score"):
        continuation_logprobs(llama, ["t1"], [[""]])


def test_templates_reach_the_prompt(llama: LoadedModel) -> None:
    plain = continuation_logprobs(llama, ["t1"], [["t2"]])
    tulu = continuation_logprobs(llama, ["t1"], [["t2"]], join="tulu")
    assert plain != tulu
    with pytest.raises(UsageError, match="unknown template"):
        generate(llama, ["t1"], max_new_tokens=1, join="alpaca")


# Answers do not depend on batches


def test_equal_answers_for_every_batch_size(loaded: LoadedModel) -> None:
    texts = prompts(12)
    one, three, every = (
        generate(loaded, texts, max_new_tokens=6, batch_tokens=tokens) for tokens in (1, 54, 10**6)
    )
    assert one == three == every and len(set(one)) > 4


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def rows_per_call(model: LoadedModel, calls: list[int], limit: int, error: Exception) -> object:
    """Count rows of forward passes, and refuse more than `limit` of them."""

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        calls.append(len(kwargs["input_ids"]))
        if calls[-1] > limit:
            raise error

    return model.model.register_forward_pre_hook(count, with_kwargs=True)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_what_says_that_memory_ran_out(error: Exception) -> None:
    assert batching.is_out_of_memory(error)
    assert not batching.is_out_of_memory(ValueError("out of memory"))
    assert not batching.is_out_of_memory(RuntimeError("shapes do not match"))


def test_batches_are_halved_when_memory_runs_out(llama: LoadedModel) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory.")
    texts, choices = prompts(12), [["t1 t2", "t3 t4", "t5"]] * 12
    answers = generate(llama, texts, max_new_tokens=4)
    scores = continuation_logprobs(llama, texts, choices)
    calls: list[int] = []
    handle = rows_per_call(llama, calls, 4, error)
    try:
        assert generate(llama, texts, max_new_tokens=4) == answers
        assert max(calls[2:]) <= 6 and sum(calls) < 200
        found = continuation_logprobs(llama, texts, choices)
        assert flat(found) == pytest.approx(flat(scores), abs=1e-5)
    finally:
        handle.remove()


def test_one_row_that_does_not_fit_and_other_errors(llama: LoadedModel) -> None:
    handle = rows_per_call(llama, [], 0, torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(DoesNotFitError, match=r"llama: memory runs out for 1 row.* of 6 tokens"):
        generate(llama, ["t1 t2 t3"], max_new_tokens=2)
    handle.remove()
    handle = rows_per_call(llama, [], 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate(llama, ["t1 t2 t3"], max_new_tokens=2)
    handle.remove()


def test_batches_fit_what_is_free(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy, load = llama.anatomy, Load(100)
    per_token = 2 * 4 * anatomy.n_blocks * anatomy.n_kv_heads * anatomy.head_dim
    assert Cost.of(llama).kept == per_token
    sizes = []
    for free in (0, 30 * Cost.of(llama).row_bytes(load), 1 << 50):
        monkeypatch.setattr(batching, "free_bytes", lambda device, free=free: free)
        batches: list[list[int]] = []
        run_in_batches(llama, [load] * 200, batches.append)
        assert sorted(index for batch in batches for index in batch) == list(range(200))
        sizes.append(len(batches[0]))
    assert sizes == [1, 15, batching.BATCH_TOKENS // 100]


# Stop strings


def test_answers_end_before_a_stop_string(llama: LoadedModel) -> None:
    texts = prompts(16)
    full = generate(llama, texts, max_new_tokens=12)
    stop = [max(full, key=len).split()[3], "t5 "]
    expected = []
    for text in full:
        places = [text.find(each) for each in stop]
        expected.append(text[: min([p for p in places if p >= 0], default=len(text))].strip())
    assert expected != full
    assert generate(llama, texts, max_new_tokens=12, stop=stop) == expected
    with pytest.raises(UsageError, match="must not be empty"):
        generate(llama, texts, max_new_tokens=1, stop=["x", ""])


def test_stop_strings_end_rows_early_and_white_space_can_stay() -> None:
    import attrs

    tokenizer = byte_level(300)
    model = attrs.evolve(tiny_loaded("llama", blocks=2, vocab=300), tokenizer=tokenizer)
    texts = ["def f(x):", "the quick", "12 and"]
    plain = generate(model, texts, max_new_tokens=24, strip=False)
    assert [text.strip() for text in plain] == generate(model, texts, max_new_tokens=24)
    stop = [plain[0][3:5]]
    calls: list[int] = []
    handle = rows_per_call(model, calls, 9, RuntimeError())
    stopped = generate(model, texts[:1], max_new_tokens=24, strip=False, stop=stop)
    handle.remove()
    assert stopped == [plain[0].partition(stop[0])[0]]
    assert len(calls) < 24


# Shared prefixes


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_give_equal_likelihoods(family: str) -> None:
    window = {"sliding_window": 6} if family in ("mistral", "gemma2", "gemma3_text") else {}
    model = tiny_loaded(family, blocks=2, **window)
    texts = prompts(6, longest=20)
    choices = [["t1 t2 t3", "t1 t2 t4 t5 t6 t7 t8 t9", "t9"], *([["t7 t7", "t8", "t7 t8"]] * 5)]
    plain = score_continuations(model, texts, choices, share_prefixes=False)
    for tokens in (1, None):
        shared = score_continuations(model, texts, choices, batch_tokens=tokens)
        for row, other in zip(shared, plain, strict=True):
            assert [c.tokens for c in row] == [c.tokens for c in other]
            found, expected = [c.logprob for c in row], [c.logprob for c in other]
            assert found == pytest.approx(expected, abs=1e-5)


def test_prefixes_are_read_once(llama: LoadedModel) -> None:
    shapes = []
    handle = llama.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    try:
        prompt = " ".join(["t1"] * 30)
        score_continuations(llama, [prompt] * 2, [["t3 t4 t5", "t6 t7", "t8"]] * 2)
        assert shapes == [(2, 31), (4, 2)]
        shapes.clear()
        score_continuations(llama, [prompt], [["t3", "t4", "t5"]])
        assert shapes == [(1, 32)], "one row for all choices of one token"
    finally:
        handle.remove()


def test_models_with_a_running_state_are_read_plainly(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = [["t1 t2", "t3 t4"]] * 3
    expected = continuation_logprobs(llama, prompts(3), choices)
    monkeypatch.setattr(type(llama.model), "_is_stateful", True)
    calls: list[int] = []
    handle = rows_per_call(llama, calls, 99, RuntimeError())
    found = continuation_logprobs(llama, prompts(3), choices)
    handle.remove()
    assert flat(found) == pytest.approx(flat(expected), abs=1e-5)
    assert sum(calls) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_what_all_prompts_begin_with_is_read_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_loaded(family, blocks=2)
    examples = " ".join(f"t{(7 * i) % 50}" for i in range(40))
    texts = [f"{examples} {text}" for text in prompts(6)]
    choices = [["t1 t2", "t3 t4 t5", "t9"]] * 6
    calls: list[int] = []
    handle = rows_per_call(model, calls, 99, RuntimeError())
    answers = generate(model, texts, max_new_tokens=5)
    scores = continuation_logprobs(model, texts, choices)
    handle.remove()
    windows = family in ("mistral", "gemma2", "gemma3_text")
    assert (calls[0] == 1) != windows, "a window does not know where padding is"
    monkeypatch.setattr(prefixes, "LEAST_HEADER", 99)
    assert generate(model, texts, max_new_tokens=5) == answers
    assert flat(continuation_logprobs(model, texts, choices)) == pytest.approx(
        flat(scores), abs=1e-5
    )

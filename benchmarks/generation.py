"""How much faster batched generation and shared prefixes are than one by one, with equal answers.

On both models of the embedded pair, with the prompts of its tasks. Both sides use the key-value
cache; `one by one` gives `generate` one prompt at a time. Likelihoods of choices are read with
the prompt shared, and from the first token for every choice: on task `facts`, and on questions
with examples in front and choices of several tokens. Since the pair has 64 positions, a random
llama (8 × 256) reads long prompts too: 200 tokens, of which 150 are the same in all.

Prints prompts, seconds and the ratio; ends with status 1 when an answer differs, a likelihood by
more than 1e-5 per token, or a ratio of generation is below 5.

Run: OMP_NUM_THREADS=1 python benchmarks/generation.py [--items 200]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pktkit.inference.generation import generate, score_continuations
from pktkit.inference.likelihood import Continuation
from pktkit.pair import LoadedModel, load_pair
from pktkit.registry import Registry
from pktkit.tasks.base import Item
from pktkit.testing import tiny_loaded
from pktkit.zoo import pair_paths

WRITTEN = ("compose", "arith", "code", "edits")
LEAST_RATIO = 5.0
TOLERANCE = 1e-5
Questions = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A name, prompts and the choices of each."""
SHOTS = 4


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and its seconds."""
    start = time.perf_counter()
    value = call()
    return value, time.perf_counter() - start


def line(model: LoadedModel, what: str, prompts: int, slow: float, fast: float, same: bool) -> None:
    """Print one row."""
    equal = "equal" if same else "DIFFERENT"
    name = model.name.rpartition("/")[2]
    print(
        f"{name:8} {what:24} {prompts:7} {slow:10.2f} {fast:9.2f} {slow / fast:8.1f}×  {equal}",
        flush=True,
    )


def generation(model: LoadedModel, registry: Registry, items: int) -> bool:
    """Compare generation on all tasks; whether it is equal and fast enough."""
    good = True
    for name in WRITTEN:
        task = registry.task(name)
        prompts = [item.prompt for item in task.items("test")[:items]]
        tokens, join = task.max_new_tokens, task.template

        def run(prompts: Sequence[str], tokens: int = tokens, join: str = join) -> list[str]:
            return generate(model, prompts, max_new_tokens=tokens, join=join)

        run(prompts[:2])
        batched, fast = timed(lambda prompts=prompts, run=run: run(prompts))
        alone, slow = timed(lambda prompts=prompts, run=run: [run([p])[0] for p in prompts])
        line(model, f"generate {name}", len(prompts), slow, fast, batched == alone)
        good = good and batched == alone and slow / fast >= LEAST_RATIO
    return good


def few_shot(items: Sequence[Item]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Put examples in front of questions, and make their choices several tokens long."""
    examples = " ".join(f"{item.prompt} {item.answer} ." for item in items[:SHOTS])
    rest = items[SHOTS:]
    prompts = [f"{examples} {item.prompt}" for item in rest]
    return prompts, [tuple(f"{c} . the answer is {c} ." for c in item.choices) for item in rest]


def facts(registry: Registry, items: int) -> list[Questions]:
    """Return the questions of task `facts`, as they are and with examples in front."""
    questions = registry.task("facts").items("test")[:items]
    plain = [q.prompt for q in questions], [q.choices for q in questions]
    return [("facts", *plain), ("facts, few-shot", *few_shot(questions))]


def random_words(items: int) -> list[Questions]:
    """Return long prompts that differ in their end, with four choices of four tokens."""
    numbers = random.Random(1)

    def words(count: int) -> str:
        return " ".join(f"t{numbers.randrange(1990)}" for _ in range(count))

    start = words(150)
    prompts = [f"{start} {words(50)}" for _ in range(items)]
    return [("random words", prompts, [[words(4) for _ in range(4)] for _ in prompts])]


def choices(model: LoadedModel, cases: Sequence[Questions]) -> bool:
    """Compare likelihoods; whether they are equal."""
    good = True
    for name, prompts, wanted in cases:

        def run(
            shared: bool,
            prompts: Sequence[str] = prompts,
            wanted: Sequence[Sequence[str]] = wanted,
        ) -> list[list[Continuation]]:
            return score_continuations(model, prompts, wanted, share_prefixes=shared)

        found, fast = timed(lambda run=run: run(True))
        expected, slow = timed(lambda run=run: run(False))
        same = all(
            abs(a.logprob - b.logprob) <= TOLERANCE * a.tokens and a.tokens == b.tokens
            for one, other in zip(found, expected, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        line(model, f"choices {name}", len(prompts), slow, fast, same)
        good = good and same
    return good


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=200)
    items = parser.parse_args().items
    registry = Registry.discover()
    pair = load_pair(*map(str, pair_paths()))
    print(f"{'model':8} {'what':24} {'prompts':>7} {'slow s':>10} {'fast s':>9} {'ratio':>9}")
    good = True
    for model in (pair.source, pair.target):
        good = generation(model, registry, items) and good
        good = choices(model, facts(registry, items)) and good
    sizes = {"width": 256, "blocks": 8, "heads": 4, "kv_heads": 2, "ffn": 704}
    llama = tiny_loaded("llama", name="random", vocab=2000, max_position_embeddings=512, **sizes)
    good = choices(llama, random_words(min(items, 40))) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

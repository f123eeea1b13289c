"""The sandboxed process: reads expressions as JSON lines, evaluates them, answers in JSON lines.

It imports nothing once it has confined itself. Two walls stand between an expression and the
machine: the expression is screened (no statements, no attributes beyond the public methods of
plain values, a short list of builtins), and the process can open no file or socket, start no
process and take no more memory or processor time than its limits.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import resource
import sys
import time
from typing import Any

from .confinement import confine

LARGEST_TEXT = 20_000
PLAIN = (bool, int, float, str, list, tuple, dict, set, frozenset)
# `format` and its kin would reach attributes through strings.
METHODS = frozenset(
    name
    for kind in PLAIN
    for name in dir(kind)
    if not name.startswith("_") and name not in ("format", "format_map")
)
BUILTINS = {
    function.__name__: function
    for function in (
        *(abs, all, any, bool, chr, dict, divmod, enumerate, filter, float, frozenset, int),
        *(isinstance, len, list, map, max, min, ord, pow, range, repr, reversed, round, set),
        *(sorted, str, sum, tuple, zip),
    )
}


class Refused(Exception):
    """The expression asks for something that no answer needs."""


def allow_seconds(seconds: float) -> None:
    """Let the process use so many more seconds of processor time before it is killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time() + seconds) + 1
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def screen(text: str) -> ast.Expression:
    """Parse an expression and refuse what no answer needs.

    Raises:
        Refused: an attribute or name that is not on the list, or a text of absurd length.
        SyntaxError: not an expression.
    """
    if len(text) > LARGEST_TEXT:
        raise Refused(f"{len(text)} characters, more than {LARGEST_TEXT}")
    tree = ast.parse(text.strip(), mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr not in METHODS:
            raise Refused(f"attribute '{node.attr}'")
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            raise Refused(f"name '{node.id}'")
        if isinstance(node, (ast.Await, ast.Yield, ast.YieldFrom)):
            raise Refused(type(node).__name__.lower())
    return tree


def plain(value: object) -> object:
    """Return a value as JSON can hold it.

    Raises:
        Refused: it is, or contains, something JSON has no word for.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [plain(element) for element in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(element) for key, element in value.items()}
    raise Refused(f"a value of type {type(value).__name__}")


def evaluate(job: dict[str, object], output_bytes: int) -> str:
    """Evaluate one job on each of its inputs; return the answer line, an error included."""
    try:
        code = compile(screen(str(job["expression"])), "<answer>", "eval")
        inputs = job["inputs"]
        assert isinstance(inputs, list)
        outputs = []
        for value in inputs:
            scope = {"__builtins__": BUILTINS, str(job["variable"]): value}
            outputs.append(plain(eval(code, scope)))
        answer = json.dumps({"outputs": outputs})
        if len(answer) > output_bytes:
            raise Refused(f"{len(answer)} bytes of output, more than {output_bytes}")
        return answer
    except BaseException as error:
        kind = "refused" if isinstance(error, Refused) else type(error).__name__
        return json.dumps({"error": f"{kind}: {str(error)[:200]}"})


def main(limits: dict[str, Any]) -> None:
    """Confine the process, then answer jobs until the input ends."""
    walls = confine(memory=limits["memory"])
    print(json.dumps({"ready": True, "walls": walls}), flush=True)
    for line in sys.stdin:
        allow_seconds(limits["seconds"])
        print(evaluate(json.loads(line), limits["output_bytes"]), flush=True)

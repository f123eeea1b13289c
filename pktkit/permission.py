"""Permission to run programs that a model wrote: asked for by evaluators, given by the user.

Permission is given for a command (`--allow-code-execution`), for a process and its workers (the
environment variable `PKTKIT_ALLOW_CODE_EXECUTION=1`), or for a block of Python
(`with code_execution():`). It does not take the place of a sandbox.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING

from pktkit.errors import UsageError

if TYPE_CHECKING:
    from pktkit.registry import Registry
    from pktkit.tasks.base import Task

FLAG = "--allow-code-execution"
VARIABLE = "PKTKIT_ALLOW_CODE_EXECUTION"

_given: ContextVar[bool] = ContextVar("code_execution", default=False)


@contextlib.contextmanager
def code_execution(allowed: bool = True) -> Iterator[None]:
    """Permit, inside the context, that programs are run that a model wrote.

    Arguments:
        allowed: False changes nothing, so that a setting can be handed on.
    """
    token = _given.set(allowed or _given.get())
    try:
        yield
    finally:
        _given.reset(token)


def code_execution_allowed() -> bool:
    """Whether programs that a model wrote may be run here and now."""
    spelt = os.environ.get(VARIABLE, "").strip().lower()
    return _given.get() or spelt not in ("", "0", "false", "no")


def require_code_execution(what: str) -> None:
    """Refuse to go on without permission.

    Arguments:
        what: who wants to run programs, to begin the message.

    Raises:
        UsageError: there is no permission.
    """
    if not code_execution_allowed():
        raise UsageError(
            f"{what} runs programs that a model wrote. They run in a sandbox, and only with your "
            f"permission: add {FLAG}, or set {VARIABLE}=1."
        )


def require_permission(registry: Registry, task: Task) -> None:
    """Refuse a task whose evaluator runs programs, before anything is loaded.

    Raises:
        UsageError: the evaluator runs programs and there is no permission.
        PluginError: the evaluator cannot be imported.
    """
    from pktkit.capabilities import capabilities_of
    from pktkit.components import Kind

    evaluator = registry.get(Kind.EVALUATOR, task.evaluator.name)
    if capabilities_of(registry.value(evaluator)).executes_code:
        require_code_execution(
            f"task '{task.name}' is scored by evaluator '{task.evaluator.name}', which"
        )

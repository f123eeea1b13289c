"""The harness as a library: which tasks it knows, and keeping it from what is ours."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pktkit.errors import UsageError, did_you_mean


def require_installed() -> None:
    """Refuse to go on without the harness.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("lm-evaluation-harness is not installed: pip install 'pktkit[lm-eval]'.")


@functools.lru_cache(maxsize=4)
def _index(include_path: str, defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    with quiet():
        return TaskManager(include_path=include_path or None, include_defaults=defaults)


def index_of(include_path: str, name: str) -> Any:
    """Return an index that knows the task; reading the harness's own thousands takes seconds."""
    if include_path:
        manager = _index(str(Path(include_path).expanduser()), False)
        if manager.match_tasks([name]):
            return manager
    return _index(str(Path(include_path).expanduser()) if include_path else "", True)


def leaves_of(name: str, include_path: str) -> dict[str, Any]:
    """Return the harness's tasks by name; a group has several.

    Raises:
        UsageError: no such task, or its rows cannot be loaded.
    """
    require_installed()
    if not name:
        raise UsageError("name a task of the harness, e.g. --task lm-eval:arc_easy.")
    if include_path and not Path(include_path).expanduser().is_dir():
        raise UsageError(f"folder of task files {include_path} does not exist.")
    manager = index_of(include_path, name)
    if not manager.match_tasks([name]):
        raise UsageError(
            f"lm-evaluation-harness has no task '{name}'.{did_you_mean(name, manager.all_tasks)} "
            "`lm-eval ls tasks` lists them; task files of your own are found with "
            "`--task lm-eval:NAME@FOLDER`."
        )
    try:
        with quiet(), same_randomness():
            leaves = dict(manager.load([name])["tasks"])
    except Exception as error:
        # Loading runs the task's own code and fetches its data set.
        said = " ".join(str(error).split())[:300].rstrip(".")
        raise UsageError(
            f"lm-evaluation-harness cannot load task '{name}': {type(error).__name__}: {said}. Its "
            "rows come from the Hub and are cached once loaded while connected."
        ) from error
    if not leaves:
        raise UsageError(f"lm-evaluation-harness has no rows for '{name}'.")
    return leaves


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness's log lines and progress bars out of ours."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """Put random states back: the harness seeds all of them, which later cells would feel."""
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state()
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])

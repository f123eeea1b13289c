"""Running cells in this process or in several worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pktkit import logs
from pktkit.distributed.processes import ALONE, Processes
from pktkit.errors import PktkitError, StrategyError

if TYPE_CHECKING:
    from pktkit.compare.cells import CellProgress, CellRunner
    from pktkit.compare.plan import Plan
    from pktkit.outcomes import CellKey, CellResult

START = "forkserver"
"""Workers are forked from a process that has imported everything and computed nothing."""

_WARM = "pktkit.compare.warm"

_REPORT_EVERY = 0.2
"""Seconds between two progress messages of a worker."""

_runner: CellRunner | None = None
_failure: PktkitError | None = None
_progress: CellProgress | None = None


def run_cells(
    plan: Plan,
    cells: Sequence[CellKey],
    *,
    jobs: int,
    cache: Path,
    progress: CellProgress,
    processes: Processes = ALONE,
    threads: int | None = None,
) -> Iterator[CellResult]:
    """Yield the result of every cell as it finishes.

    Arguments:
        jobs: worker processes; 0 runs in this process.
        cache: directory of readings that workers share.
        progress: called with (cell, step, steps, loss), possibly from another thread.
        processes: that train each target together, without workers; all run the cells that
            process 0 names.
        threads: of torch in each worker; None shares the cores among them.

    Raises:
        PktkitError: the pair cannot be loaded, or a worker died.
    """
    if jobs == 0 or processes.several:
        from pktkit.compare.cells import CellRunner

        with torch_threads(None if processes.several else threads):
            runner = CellRunner(plan, cache=cache, processes=processes)
            for key in processes.from_main(list(cells)):
                yield runner.run(key, progress)
        return
    given = threads or max(1, available_cores() // jobs)
    yield from _in_processes(plan, cells, jobs=jobs, cache=cache, progress=progress, threads=given)


def default_jobs(cells: int, *, devices: Sequence[str], checkpoint_bytes: int) -> int:
    """Return how many workers suit: several for small models on the CPU, else one.

    Arguments:
        cells: how many cells there are.
        devices: torch devices of the models.
        checkpoint_bytes: size of both checkpoints; each worker holds both models.
    """
    if not all(device.startswith("cpu") for device in devices) or checkpoint_bytes > 1 << 28:
        return 1
    return max(1, min(cells, available_cores()))


def default_threads(jobs: int | None, default: int) -> int:
    """Return how many threads of torch each worker gets.

    Another number of threads sums in another order, which may change the last bits of a score.
    Hence fewer workers than the default number get no more threads each.

    Arguments:
        jobs: workers asked for; None for the default number.
        default: see `default_jobs`.
    """
    return max(1, available_cores() // max(jobs or 0, default))


def warm_up() -> None:
    """Start the process that workers are forked from; it imports the libraries meanwhile."""
    from multiprocessing import forkserver

    multiprocessing.get_context(START).set_forkserver_preload([_WARM])
    forkserver.ensure_running()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _in_processes(
    plan: Plan,
    cells: Sequence[CellKey],
    *,
    jobs: int,
    cache: Path,
    progress: CellProgress,
    threads: int,
) -> Iterator[CellResult]:
    context = multiprocessing.get_context(START)
    context.set_forkserver_preload([_WARM])
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        jobs,
        context,
        initializer=_start,
        initargs=(plan, cache, threads, messages, logs.verbosity()),
    )
    done = False
    try:
        with _relay(messages, progress):
            futures = [pool.submit(_run, key) for key in cells]
            for future in as_completed(futures):
                yield future.result()
        done = True
    except BrokenProcessPool as error:
        raise StrategyError(
            "a worker process died, most likely for lack of memory. Try --jobs 1."
        ) from error
    except (KeyboardInterrupt, GeneratorExit):
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        # Workers that have nothing left to do end while the report is written.
        pool.shutdown(wait=not done, cancel_futures=True)


@contextlib.contextmanager
def _relay(messages: Any, progress: Callable[..., None]) -> Iterator[None]:
    """Hand workers' progress messages to `progress` on a thread until the context ends."""

    def listen() -> None:
        while (message := messages.get()) is not None:
            progress(*message)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        messages.put(None)
        thread.join()


def _start(plan: Plan, cache: Path, threads: int, messages: Any, verbosity: int) -> None:
    """Prepare a worker; a failure is kept and raised by its first cell, with its own type."""
    global _runner, _failure, _progress
    import torch

    from pktkit.compare.cells import CellRunner

    _end_with_parent()
    logs.configure(verbosity)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    torch.set_num_threads(threads)
    _progress = _throttled(messages)
    try:
        _runner = CellRunner(plan, cache=cache)
    except PktkitError as error:
        _failure = error


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone, killed or not.

    Nobody would read its results, and without this it would wait for work forever.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(key: CellKey) -> CellResult:
    if _runner is None:
        raise _failure or StrategyError("a worker was not prepared")
    return _runner.run(key, _progress)


def _throttled(messages: Any) -> CellProgress:
    import time

    last = 0.0

    def report(key: CellKey, step: int, steps: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if step == steps or now - last > _REPORT_EVERY:
            last = now
            messages.put((key, step, steps, loss))

    return report

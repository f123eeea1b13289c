"""What `--trace-plugins` shows: which component did what, in which order, how long, what came.

And where in the work an exception was raised, as a note that travels with it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import attrs

from pktkit.isolation import describe

_BLOCK = "__pktkit_block__"


@attrs.frozen
class TraceEvent:
    """One thing that a plugin did.

    Arguments:
        action: `load`, `hook`, `import`, `match`, `align`, `inject` or `evaluate`.
        who: plugin or component, with its distribution and version.
        cell: strategy, task and seed it was done for; empty outside of runs.
        seconds: wall time.
        result: what came of it, with shapes.
        error: the exception it ended with, in one line; empty when it did not.
    """

    action: str
    who: str
    cell: str = ""
    seconds: float = 0.0
    result: str = ""
    error: str = ""

    def __str__(self) -> str:
        place = f"{self.cell}: " if self.cell else ""
        outcome = f" failed: {self.error}" if self.error else ""
        outcome = outcome or (f" → {self.result}" if self.result else "")
        return f"trace  {self.action:<8} {self.seconds:8.3f} s  {place}{self.who}{outcome}"


@attrs.define
class Result:
    """Takes down what came of a traced action."""

    text: str = ""


@attrs.define
class Trace:
    """Passes on what plugins do, or nothing at all.

    Arguments:
        emit: called with each event when it has ended; None switches tracing off.
        cell: what runs now, e.g. `latent on compose, seed 0`.
    """

    emit: Callable[[TraceEvent], object] | None = None
    cell: str = ""

    @property
    def on(self) -> bool:
        """Whether anybody listens, so that a summary is worth its computation."""
        return self.emit is not None

    @contextlib.contextmanager
    def event(self, action: str, who: str) -> Iterator[Result]:
        """Trace what happens inside the context, its exception included."""
        result, error, start = Result(), "", time.perf_counter()
        try:
            yield result
        except BaseException as raised:
            error = describe(raised)
            raise
        finally:
            if self.emit is not None:
                seconds = time.perf_counter() - start
                self.emit(TraceEvent(action, who, self.cell, seconds, result.text, error))


@contextlib.contextmanager
def at_block(target: int, sources: Sequence[int] = ()) -> Iterator[None]:
    """Say which block an exception belongs to: the note on it names `block a → b`.

    For the loops of plugins: `with at_block(link.target, link.sources): ...`.

    Arguments:
        target: target block.
        sources: source blocks it receives from; empty where none is involved.
    """
    try:
        yield
    except Exception as error:
        if not hasattr(error, _BLOCK):
            origin = f"{'+'.join(map(str, sources))} → " if sources else ""
            with contextlib.suppress(AttributeError):  # a class with __slots__ takes none
                setattr(error, _BLOCK, f"block {origin}{target}")
        raise


def block_of(error: BaseException) -> str:
    """Return the block an exception or one of its causes was raised at; empty where unknown."""
    cause: BaseException | None = error
    while cause is not None:
        if block := getattr(cause, _BLOCK, ""):
            return str(block)
        cause = cause.__cause__
    return ""


def place_of(error: BaseException, *, strategy: str, component: str, stage: str) -> str:
    """Return the note for an exception: where in the work it was raised.

    Arguments:
        error: asked for the block it belongs to.
        strategy: name of the strategy.
        component: name, distribution and version.
        stage: `match`, `align`, `inject` or `evaluate`.
    """
    block = block_of(error)
    note = f"in strategy {strategy}, component {component}, stage {stage}"
    return f"{note}, {block}" if block else note

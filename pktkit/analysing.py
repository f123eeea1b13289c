"""Running analyses one after another, each kept from the others' faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from pktkit.analysis import AnalysisContext, AnalysisResult
from pktkit.components import Choice, Kind
from pktkit.errors import JournalError, PktkitError, StrategyError
from pktkit.isolation import FAULTS, describe, reworded, stdout_to_stderr
from pktkit.journal import Journal
from pktkit.memory import does_not_fit, is_out_of_memory


@attrs.frozen
class Outcome:
    """What became of one analysis: a result, or the error it ended with.

    Arguments:
        choice: its name and options.
        result: None when it failed.
        error: None when it did not.
    """

    choice: Choice
    result: AnalysisResult | None = None
    error: PktkitError | None = None


def run_analyses(
    choices: Sequence[Choice],
    context: AnalysisContext,
    begun: Callable[[Choice], None] = lambda choice: None,
) -> Iterator[Outcome]:
    """Run analyses one after another; one that fails does not stop the others.

    Unless it changed the target: what would be read of it then is of another model, so all that
    follow fail as well.

    Arguments:
        choices: names and options.
        context: what they all read.
        begun: called before each one runs.
    """
    spoilt: JournalError | None = None
    for choice in choices:
        if spoilt is not None:
            yield Outcome(choice, error=StrategyError(f"analysis '{choice.name}': {spoilt}"))
            continue
        begun(choice)
        try:
            with Journal(context.pair.target):
                result = run_analysis(choice, context)
        except JournalError as error:
            spoilt = JournalError(f"the target is not as it was loaded. {error}")
            yield Outcome(choice, error=JournalError(f"analysis '{choice.name}': {error}"))
        except PktkitError as error:
            yield Outcome(choice, error=error)
        else:
            yield Outcome(choice, result)


def run_analysis(choice: Choice, context: AnalysisContext) -> AnalysisResult:
    """Build and run one analysis.

    Raises:
        PktkitError: it is unknown, its options do not fit, or it failed; the message names it.
    """
    built = context.registry.build(Kind.ANALYSIS, context.choice(Kind.ANALYSIS, choice))
    registered = context.registry.get(Kind.ANALYSIS, choice.name)
    trace = context.registry.plugins.trace
    where = f"analysis '{choice.name}'"
    try:
        with stdout_to_stderr(), trace.event("analyse", registered.label):
            result = built.analyse(context)
    except PktkitError as error:
        raise reworded(error, f"{where}: {error}") from error
    except FAULTS as error:
        if is_out_of_memory(error):
            raise does_not_fit(error, where) from error
        raise StrategyError(f"{where}: {describe(error)}") from error
    if not isinstance(result, AnalysisResult):
        raise StrategyError(
            f"{where}: it returned {type(result).__name__}, expected AnalysisResult."
        )
    return result

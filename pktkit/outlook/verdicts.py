"""What each strategy would say to a pair, asked without running it."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from pktkit.capabilities import capabilities_of
from pktkit.components import Choice, Kind
from pktkit.errors import PairIncompatibleError, PktkitError
from pktkit.isolation import FAULTS, describe

if TYPE_CHECKING:
    from pktkit.components import Strategy
    from pktkit.prospect import Prospect
    from pktkit.registry import Registry


class Word(enum.StrEnum):
    """Whether a strategy can be used; NOT_DECLARED: a component does not say."""

    OK = "ok"
    NEEDS = "needs"
    IMPOSSIBLE = "impossible"
    NOT_DECLARED = "not declared"


@attrs.frozen
class Verdict:
    """The doctor's word on one strategy.

    Arguments:
        strategy: its name.
        word: the worst of its components'.
        needs: in a few words, what would have to be given or changed; may be empty.
        reasons: what running would say, a message each.
    """

    strategy: str
    word: Word
    needs: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the strategy works as it is, or with what it needs."""
        return self.word is not Word.IMPOSSIBLE

    def __str__(self) -> str:
        """Return `ok`, `needs X`, `impossible because Y` or `not declared …`."""
        if self.word is Word.NEEDS and self.needs:
            return f"needs {self.needs}"
        if self.word is Word.NEEDS:
            return f"needs a change: {self.reasons[0]}"
        if self.word is Word.IMPOSSIBLE:
            return f"impossible because {self.reasons[0]}"
        if self.word is Word.NOT_DECLARED:
            return f"not declared by {', '.join(self.reasons)}"
        return str(self.word)


def judge(strategy: Strategy, prospect: Prospect, registry: Registry) -> Verdict:
    """Ask a strategy's components about a pair.

    A component that cannot be built (an option, a plugin) counts as one that needs a change.
    """
    errors: list[PktkitError] = []
    silent: list[str] = []
    for kind, choice in stages(strategy):
        try:
            component = registry.build(kind, choice)
            if not _asked(component, prospect):
                silent.append(f"{kind} '{choice.name}'")
        except PktkitError as error:
            errors.append(error)
        except FAULTS as error:  # a foreign component's check
            silent.append(f"{kind} '{choice.name}', whose check fails ({describe(error)})")
    closed = [error for error in errors if not _helped(error)]
    if closed:
        return Verdict(strategy.name, Word.IMPOSSIBLE, reasons=_texts(closed))
    if errors:
        needs = dict.fromkeys(error.needs for error in errors if error.needs)
        return Verdict(strategy.name, Word.NEEDS, " and ".join(needs), _texts(errors))
    if silent:
        return Verdict(strategy.name, Word.NOT_DECLARED, reasons=tuple(silent))
    return Verdict(strategy.name, Word.OK)


def stages(strategy: Strategy) -> Iterator[tuple[Kind, Choice]]:
    """Yield the components a strategy names."""
    for kind, choice in (
        (Kind.MATCHER, strategy.matcher),
        (Kind.ALIGNER, strategy.aligner),
        (Kind.INJECTOR, strategy.injector),
    ):
        if choice is not None:
            yield kind, choice


def _asked(component: Any, prospect: Prospect) -> bool:
    """Return whether a component has an answer; a refusal is raised."""
    promised = capabilities_of(component)
    check = getattr(component, "check", None)
    if check is not None:
        check(prospect)
    if promised.reads_depths:
        component.match(prospect.pair, None)
    return check is not None or promised.any_pair or promised.reads_depths


def _helped(error: PktkitError) -> bool:
    """Return whether something can be done: options can be changed, models cannot."""
    return bool(error.needs) or not isinstance(error, PairIncompatibleError)


def _texts(errors: Sequence[PktkitError]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(str, errors)))

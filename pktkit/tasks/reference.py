"""What is typed after `--task`: `NAME[:PROTOCOL][@DATA][?OPTION=VALUE[&OPTION=VALUE…]]`.

A reference is one text without spaces, so that it can stand in a comma list, in the lock of a run
and in the plan that workers get:

    gsm8k                       the benchmark from the Hub, in its published protocol
    gsm8k:qa-5shot@rows/gsm     another protocol, on files of one's own
    humaneval?samples=1         one option changed
    lm-eval:arc_easy            a task of lm-evaluation-harness
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from pktkit.errors import UsageError
from pktkit.recipe import parse_value

_REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9_.-]*)(?::(?P<argument>[^@?]*))?(?:@(?P<data>[^?]*))?"
    r"(?:\?(?P<options>.*))?"
)


@attrs.frozen
class TaskReference:
    """A registered task with what was said about it.

    Arguments:
        name: of the registered task.
        argument: what stood after the colon: which protocol, or which task of a harness.
        data: what stood after the at sign: where the rows are.
        options: further options by name.
    """

    name: str
    argument: str = ""
    data: str = ""
    options: Mapping[str, Any] = attrs.field(factory=dict)

    @property
    def bare(self) -> bool:
        """Whether nothing but the name was given."""
        return not (self.argument or self.data or self.options)

    def as_options(self, argument: str = "protocol") -> dict[str, Any]:
        """Return everything as options; `argument` names the one after the colon.

        Raises:
            UsageError: an option is given twice.
        """
        given = {argument: self.argument, "data": self.data}
        found = {name: value for name, value in given.items() if value}
        for name, value in self.options.items():
            if name in found:
                raise UsageError(f"task '{self.name}': option '{name}' is given twice.")
            found[name] = value
        return found


def parse_reference(text: str) -> TaskReference | None:
    """Read a reference; None where the text cannot be one (a path with a slash in its name).

    Raises:
        UsageError: the part after the question mark is not `option=value`, or an option is twice.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        return None
    options: dict[str, Any] = {}
    for part in filter(None, (match["options"] or "").split("&")):
        name, equals, value = part.partition("=")
        if not (name and equals):
            raise UsageError(
                f"task '{text}': '{part}' must be option=value; options begin after '?' and are "
                "joined by '&'. Quote the whole in a shell."
            )
        if name in options:
            raise UsageError(f"task '{text}': option '{name}' is given twice.")
        options[name] = parse_value(value)
    return TaskReference(match["name"], match["argument"] or "", match["data"] or "", options)

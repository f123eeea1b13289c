"""Write `hooks.md` from the hook specifications and the protocols behind them.

python docs/generate_hooks.py
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from pktkit import components, hookspecs, outcomes, protocols
from pktkit.components import Kind
from pktkit.registry import HOOKS
from pktkit.tasks import base

PAGE = Path(__file__).parent / "hooks.md"
WIDTH = 100

PROTOCOLS = {
    Kind.MATCHER: "LayerMatcher",
    Kind.ALIGNER: "LatentAligner",
    Kind.INJECTOR: "KnowledgeInjector",
    Kind.EVALUATOR: "Evaluator",
    Kind.ANALYSIS: "Analysis",
}
"""The protocol that the class behind a component follows."""

VALUES = {Kind.STRATEGY: (components, "Strategy"), Kind.TASK: (base, "Task")}
"""What a component of the other kinds is."""

RECORDS = {
    "pktkit_stage_finished": ("StageRecord", "CellKey"),
    "pktkit_report_sections": ("ComparisonRecord", "ReportSection", "Figure"),
}
"""What observers receive and return."""

CALLED = {
    "pktkit_stage_finished": (
        "Called after match, align and inject of every cell, in the process that ran it: with "
        "`--jobs` above 0 that is a worker, whose memory the main process does not see."
    ),
    "pktkit_report_sections": (
        "Called once, in the main process, when all cells have finished and `cells.jsonl` is on "
        "disk, before the reports are written. `results` is what `results.json` will hold."
    ),
}
"""When observers are called."""

PUBLIC_MODULES = (
    "pktkit.activations.moments",
    "pktkit.activations.paired",
    "pktkit.activations.similarity",
    "pktkit.analysis",
    "pktkit.budget",
    "pktkit.capabilities",
    "pktkit.components",
    "pktkit.encoding",
    "pktkit.errors",
    "pktkit.families",
    "pktkit.hookspecs",
    "pktkit.inference.generation",
    "pktkit.journal",
    "pktkit.options",
    "pktkit.outcomes",
    "pktkit.pair",
    "pktkit.permission",
    "pktkit.plotting",
    "pktkit.probe",
    "pktkit.protocols",
    "pktkit.report.rundir",
    "pktkit.slicing",
    "pktkit.state_maps",
    "pktkit.tasks.base",
    "pktkit.testing",
    "pktkit.tracing",
    "pktkit.training",
    "pktkit.training.adapters",
    "pktkit.training.capacity",
    "pktkit.training.objectives",
    "pktkit.updates",
    "pktkit.values",
)
"""What plugins may import and the promise covers."""


def hooks() -> dict[str, ast.FunctionDef]:
    """Return the specification of every hook, in the order of `hookspecs.py`."""
    return {
        node.name: node
        for node in ast.parse(inspect.getsource(hookspecs)).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("pktkit_")
    }


def signature(node: ast.FunctionDef, indent: int = 0) -> str:
    """Return the head of a function, its arguments on a line of their own where it is long."""
    margin, arguments = " " * indent, ast.unparse(node.args)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{margin}def {node.name}({arguments}){returns}:"
    if len(line) <= WIDTH:
        return line
    return f"{margin}def {node.name}(\n{margin}    {arguments}\n{margin}){returns}:"


def page() -> str:
    """Return the whole page."""
    return "\n\n".join([INTRODUCTION, *_registration(), *_observers(), _promise()]) + "\n"


def _registration() -> Iterator[str]:
    specifications = hooks()
    yield REGISTRATION
    yield _code(_outline(components, "Component"))
    for kind, hook in HOOKS.items():
        yield _section(specifications[hook])
        if kind in PROTOCOLS:
            yield f"The class follows `pktkit.protocols.{PROTOCOLS[kind]}`:"
            yield _code(_outline(protocols, PROTOCOLS[kind]))
        else:
            yield _code(_outline(*VALUES[kind]))


def _observers() -> Iterator[str]:
    yield OBSERVERS
    for name, specification in hooks().items():
        if name not in HOOKS.values():
            yield _section(specification)
            yield textwrap.fill(CALLED[name], WIDTH)
            yield _code("\n\n\n".join(_outline(outcomes, record) for record in RECORDS[name]))


def _section(node: ast.FunctionDef) -> str:
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    head = _code(f"{signature(node)} ...")
    return f"### `{node.name}`\n\n{head}\n\n{text}"


def _outline(module: ModuleType, name: str) -> str:
    """Return a class with its fields, the signatures of its public methods and all docstrings."""
    [node] = [
        each
        for each in ast.parse(inspect.getsource(module)).body
        if isinstance(each, ast.ClassDef) and each.name == name
    ]
    parts = [_docstring(node)]
    fields = [
        f"    {ast.unparse(each.target)}: {ast.unparse(each.annotation)}"
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith("_")
    ]
    if fields:
        parts.append("\n".join(fields))
    parts += [
        f"{_decorators(each)}{signature(each, 4)}\n{_docstring(each, 8)}"
        for each in node.body
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and _plain(each)
    ]
    return f"class {name}:\n" + "\n\n".join(parts)


def _plain(node: ast.FunctionDef) -> bool:
    """Whether a method is one to call, and not the validator or default of a field."""
    return all(ast.unparse(each) in ("property", "classmethod") for each in node.decorator_list)


def _decorators(node: ast.FunctionDef) -> str:
    return "".join(f"    @{ast.unparse(each)}\n" for each in node.decorator_list)


def _docstring(node: ast.ClassDef | ast.FunctionDef, indent: int = 4) -> str:
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    ending = f"\n{' ' * indent}" if "\n" in text else ""
    lines = [f"{' ' * indent}{line}".rstrip() for line in text.splitlines()]
    return f'{" " * indent}"""' + "\n".join(lines).strip() + f'{ending}"""'


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _promise() -> str:
    modules = textwrap.fill(", ".join(f"`{name}`" for name in PUBLIC_MODULES), WIDTH)
    return PROMISE.format(version=hookspecs.API_VERSION, modules=modules)


INTRODUCTION = f"""\
# Hooks

<!-- Generated by docs/generate_hooks.py from pktkit/hookspecs.py. Do not edit by hand. -->

A plugin is a module named by an entry point of the group `{hookspecs.ENTRY_POINT_GROUP}`. It
implements any of the hooks below as functions of the same name, each marked with
`@pktkit.hookspecs.hookimpl`. An implementation may leave out arguments it does not need. How to
write one: [Write an alignment plugin in 15 minutes](tutorial-aligner.md).

A plugin that cannot be imported, misspells a hook, or raises in one is listed as broken by
`pktkit plugins list`, with the reason; the others go on."""

REGISTRATION = """\
## Registration hooks

Called when a command needs to know what there is. They return `pktkit.components.Component`
values, a name and an import path each: nothing heavy is imported before a component is chosen.
Two components of one kind with one name are an error that names both, never a silent choice."""

OBSERVERS = """\
## Observer hooks

Called in every run, in every plugin that has them, with immutable records. A plugin whose observer
raises is called no more by that process; the run and the other plugins go on."""

PROMISE = """\
## What stays as it is

The plugin API has a version, now **{version}** (`pktkit.hookspecs.API_VERSION`). A plugin says
which one it was written for with `PKTKIT_API = {version}` in its module; where it differs from what
is installed, the plugin is listed as broken with both numbers instead of failing in the middle of
a run. Without the line it is taken to fit.

Within one API version

- hooks, the names of their arguments, and what they may return stay;
- so do the methods of the protocols, the fields of values and records, and the names, types and
  meaning of what is public in the modules below;
- new hooks, new arguments of hooks, new fields with defaults and new options may come. None of
  these can break a plugin that follows the rules above: arguments are passed by name, and only
  those that an implementation asks for.

Public are all names without a leading underscore in

{modules}.

Everything else, the built-in plugins' own modules included, may change in any release; use
built-in components by their registered names.

### Deprecation

What is going to leave is announced first. A deprecated hook or argument keeps working for at least
two minor releases and six months. Meanwhile every plugin that implements it is told so, whenever
plugins are loaded, by a `FutureWarning` that names what to write instead (pluggy's `warn_on_impl`
and `warn_on_impl_args`); `pktkit plugins doctor` lists deprecated hooks, and the release notes say
when they go. Removing one raises the API version. Until pktkit 1.0 that can come with a minor
release, from then on only with a major one.

Defaults of built-in strategies are not part of the promise: they are chosen by measurement. A
recipe that names its options stays what it is."""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

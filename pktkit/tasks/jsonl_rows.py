"""One row of a file in any of three formats, read as an item or refused with a reason."""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from pktkit.errors import UsageError
from pktkit.tasks.base import SPLITS, Item

OPTIONAL = ("id", "split", "choices", "check")
FORMATS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "question and answer": ("question", "answer"),
    "prompt and answer": ("prompt", "answer"),
}
"""Required fields of each format; the first format whose first field is there is taken."""

_NUMBER = r"[-+]?[$€£]?\d[\d,]*(?:\.\d+)?"
_MARKED = re.compile(rf"####\s*{_NUMBER}\s*$")
_FINAL = re.compile(rf"[Tt]he answer is:?\s*{_NUMBER}(?:\.|%)*\s*$")
_BARE = re.compile(rf"\s*{_NUMBER}\s*")
_LETTER = re.compile(r"(?P<said>The answer is:? )(?P<letter>[A-Z])\.?")
_LETTERED = re.compile(r"^([A-Z])\. ", re.MULTILINE)


@attrs.frozen
class Row:
    """One row.

    Arguments:
        where: file and line, for messages.
        item: what the row says; its id is made from the prompt when the row has none.
        split: the split the row asks for, or the empty string.
        numeric: whether the answer ends in a number that can be compared.
    """

    where: str
    item: Item
    split: str
    numeric: bool


def read_row(value: Any, where: str, name: str) -> Row:
    """Read one row.

    Arguments:
        value: the row as parsed from JSON.
        where: file and line, the beginning of every message.
        name: the task's name, which begins ids made here.

    Raises:
        UsageError: a field is missing, misspelt or not what it should be.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a JSON object with fields, got {_kind(value)}.")
    form = _format(value, where)
    _refuse_misspelt(value, FORMATS[form], where)
    prompt, answer = _READERS[form](value, where)
    choices = _choices(value, where) or _letters(form, prompt, answer)
    if choices and answer not in choices:
        raise UsageError(
            f"{where}: the answer {answer!r} is not among the choices {list(choices)}."
        )
    check = value.get("check", {})
    if not isinstance(check, dict):
        raise UsageError(f"{where}: field 'check' must be an object, got {_kind(check)}.")
    item = Item(_id(value, prompt, where, name), prompt, answer, choices, check)
    return Row(where, item, _split(value, where), is_numeric(answer))


def normalised(prompt: str) -> str:
    """Return a prompt as it counts for equality: Unicode, case and white space made uniform."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def is_numeric(answer: str) -> bool:
    """Tell whether an answer is a number, or ends in `#### 24` or `So the answer is 24.`"""
    return bool(_BARE.fullmatch(answer) or _MARKED.search(answer) or _FINAL.search(answer))


def _format(value: Mapping[str, Any], where: str) -> str:
    """Name the format of a row; complain about the likeliest one when a field is missing."""
    for form, required in FORMATS.items():
        if required[0] in value:
            missing = [field for field in required if field not in value]
            if not missing:
                return form
            raise UsageError(_missing(missing[0], value, where))
    likely = [
        required[0]
        for required in FORMATS.values()
        if difflib.get_close_matches(required[0], list(value), n=1, cutoff=0.7)
    ]
    raise UsageError(_missing([*likely, "prompt"][0], value, where))


def _missing(field: str, value: Mapping[str, Any], where: str) -> str:
    known = [name for required in FORMATS.values() for name in required]
    close = [
        (found, name)
        for found in value
        if found not in known
        for name in difflib.get_close_matches(found, known, n=1, cutoff=0.7)
    ]
    hint = f" Is '{close[0][0]}' meant to be '{close[0][1]}'?" if close else ""
    forms = "; or ".join(" and ".join(required) for required in FORMATS.values())
    listed = ", ".join(map(str, value)) or "none"
    return f"{where}: field '{field}' is missing.{hint} Expected {forms}. Got: {listed}."


def _refuse_misspelt(value: Mapping[str, Any], required: tuple[str, ...], where: str) -> None:
    """Refuse a field that looks like an optional one; fields of other names are ignored."""
    for found in value:
        if found in required or found in OPTIONAL:
            continue
        close = difflib.get_close_matches(str(found), OPTIONAL, n=1, cutoff=0.8)
        if close and close[0] not in value:
            raise UsageError(f"{where}: unknown field '{found}'. Did you mean '{close[0]}'?")


def _text(value: Mapping[str, Any], field: str, where: str) -> str:
    found = value[field]
    if not isinstance(found, str) or not found.strip():
        raise UsageError(f"{where}: field '{field}' must be a text, got {_kind(found)}.")
    return found


def _read_question(value: Mapping[str, Any], where: str) -> tuple[str, str]:
    """GSM8K: the answer is the whole reasoning, and must end in `#### number`."""
    answer = _text(value, "answer", where)
    if not _MARKED.search(answer):
        raise UsageError(
            f"{where}: field 'answer' must end in '#### ' and a number, as in GSM8K; it ends in "
            f"{answer[-30:]!r}. For other answers name the question 'prompt'."
        )
    return _text(value, "question", where), answer


def _read_prompt(value: Mapping[str, Any], where: str) -> tuple[str, str]:
    return _text(value, "prompt", where), _text(value, "answer", where)


def _read_messages(value: Mapping[str, Any], where: str) -> tuple[str, str]:
    messages = value["messages"]
    fitting = isinstance(messages, list) and all(isinstance(m, dict) for m in messages)
    roles = [message.get("role") for message in messages] if fitting else _kind(messages)
    if roles != ["user", "assistant"]:
        raise UsageError(
            f"{where}: field 'messages' must hold one user and one assistant message, got {roles}."
        )
    contents = []
    for message in messages:
        if "content" not in message:
            raise UsageError(f"{where}: the {message['role']} message has no 'content'.")
        contents.append(_text(message, "content", f"{where}, {message['role']} message"))
    return contents[0], contents[1]


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], tuple[str, str]]] = {
    "messages": _read_messages,
    "question and answer": _read_question,
    "prompt and answer": _read_prompt,
}


def _choices(value: Mapping[str, Any], where: str) -> tuple[str, ...]:
    choices = value.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise UsageError(f"{where}: field 'choices' must be a list of texts, got {choices!r}.")
    if choices and (len(choices) < 2 or len(set(choices)) < len(choices)):
        raise UsageError(f"{where}: field 'choices' needs two or more different texts.")
    return tuple(choices)


def _letters(form: str, prompt: str, answer: str) -> tuple[str, ...]:
    """Return the choices of an MMLU conversation: `The answer is: A` to the prompt's last letter.

    The published evaluations compare these by likelihood too.
    """
    said = _LETTER.fullmatch(answer)
    letters = tuple(dict.fromkeys(_LETTERED.findall(prompt)))
    if form != "messages" or said is None or len(letters) < 2 or said["letter"] not in letters:
        return ()
    ending = answer[said.end("letter") :]
    return tuple(f"{said['said']}{letter}{ending}" for letter in letters)


def _id(value: Mapping[str, Any], prompt: str, where: str, name: str) -> str:
    if "id" not in value:
        return f"{name}-{hashlib.sha256(normalised(prompt).encode()).hexdigest()[:12]}"
    found = value["id"]
    if isinstance(found, bool) or not isinstance(found, (str, int)) or found == "":
        raise UsageError(f"{where}: field 'id' must be a text or a number, got {_kind(found)}.")
    return str(found)


def _split(value: Mapping[str, Any], where: str) -> str:
    found = value.get("split", "")
    if "split" in value and found not in SPLITS:
        close = difflib.get_close_matches(str(found), SPLITS, n=1, cutoff=0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UsageError(
            f"{where}: field 'split' must be one of {', '.join(SPLITS)}, got {found!r}.{hint}"
        )
    return str(found)


def _kind(value: Any) -> str:
    """Describe a JSON value in words short enough for a message."""
    if value is None:
        return "null"
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

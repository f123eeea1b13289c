"""What an answer comes down to: the number, the letter or the whole text that is compared.

Published evaluations extract in ways that are part of their figures, hence an extraction is
chosen by name. `open-instruct` is the published one for GSM8K, flaws included; `number` is the
one that reads answers as a person would.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction

Extracted = Decimal | Fraction | str | None

MARKER = "####"
"""GSM8K's own mark of the final answer."""

_COMMA_BETWEEN_DIGITS = re.compile(r"(?<=\d),(?=\d)")
# A minus after a digit, letter or closing bracket subtracts; elsewhere it is a sign.
_NUMBER = re.compile(r"((?<![\w)\].])-\s?)?[$€£]?(\d+(?:\.\d+)?|(?<!\d)\.\d+)")


def numbers(text: str) -> list[Decimal]:
    """Return the numbers of a text in order.

    Commas between digits are dropped, as in the published GSM8K evaluations; a full stop after a
    number is punctuation; a minus counts as a sign unless it subtracts (`10-3`).
    """
    plain = _COMMA_BETWEEN_DIGITS.sub("", text.replace("\N{MINUS SIGN}", "-"))
    return [Decimal(f"-{digits}" if sign else digits) for sign, digits in _NUMBER.findall(plain)]


def final_number(text: str) -> Decimal | None:
    """Return the number right after the first `####`, or else the last number of the text."""
    _, marker, after = text.partition(MARKER)
    marked = numbers(after) if marker else []
    if marked:
        return marked[0]
    found = numbers(text)
    return found[-1] if found else None


def first_number(text: str) -> Decimal | None:
    """Return the first number of a text, or None."""
    found = numbers(text)
    return found[0] if found else None


def whole_text(text: str) -> str:
    """Return a text with its white space made single and trimmed."""
    return " ".join(text.split())


_PUBLISHED = re.compile(r"[-+]?\d*\.\d+|\d+")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def open_instruct(text: str) -> str | None:
    """Return the last number as Open-Instruct's GSM8K evaluation compares it.

    Commas between digits are deleted and the last match of `[-+]?\\d*\\.\\d+|\\d+` is taken, which
    has no sign for integers; then all punctuation is deleted, so that `2.5` is compared as `25`
    and `24.0` is not `24`.
    """
    found = _PUBLISHED.findall(re.sub(r"(\d),(\d)", r"\1\2", text))
    return str(found[-1]).translate(_PUNCTUATION) if found else None


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_SIGN = r"(?P<sign>(?<![\w)\]}.])[-+]\s?)?"
_CURRENCY = r"(?:\\?\$|[€£¥₹]|\b(?:USD|EUR|GBP|Rs\.?)\s?)"
_LATEX = re.compile(r"\\[,;:! ]|\\(?:left|right|text|mathrm|mathbf)\b|\*\*")
_VALUE = re.compile(
    # Digits glued to a letter belong to a name (x1, m2), digits after a caret are an exponent.
    rf"(?<![\^\w.]){_SIGN}(?:{_CURRENCY}\s?(?P<inner>[-+])?)?"
    r"(?:\\[dt]?frac\s*\{\s*(?P<above>-?\d+)\s*\}\s*\{\s*(?P<below>\d+)\s*\}"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<top>{_DIGITS})/(?P<bottom>{_DIGITS})(?![\d/])"
    rf"|(?P<decimal>{_DECIMAL})"
    r"(?:[eE](?P<power>[-+]?\d+)\b"
    r"|\s?(?:×|x|\*|\\times|\\cdot)\s?10\s?\^\s?\{?(?P<tens>[-+]?\d+)\}?)?)",
)
_LARGEST_POWER = 400
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r"answer\s*(?:is|:|=)+\s*", re.IGNORECASE)


def values(text: str) -> Iterator[Fraction]:
    r"""Yield the numbers of a text as exact fractions, in order.

    Understood are signs (a minus after a digit or bracket subtracts), thousands commas, currency,
    `3/4` and `1 3/4` without spaces around the slash, `\frac{3}{4}`, `1.5e3` and `1.5 × 10^3`.
    A per cent sign or unit is left aside. Digits inside a name (`x1`) and exponents (`m^2`) are
    no numbers.
    """
    plain = _LATEX.sub(" ", text.replace("\N{MINUS SIGN}", "-").replace("{,}", ","))
    for match in _VALUE.finditer(plain):
        value = _read(match)
        if value is not None:
            negative = "-" in ((match["sign"] or "") + (match["inner"] or ""))
            yield -value if negative else value


def number(text: str) -> Fraction | None:
    r"""Return the number an answer comes down to, or None.

    In this order: the first one after `####`, the last one in a `\boxed{…}`, the first one after
    the last "answer is" or "answer:" on that line, the last one of the text.
    """
    _, marker, after = text.partition(MARKER)
    boxed = _BOXED.findall(text)
    said = _SAID.split(text)
    for part, place in (
        (after if marker else "", 0),
        (boxed[-1] if boxed else "", -1),
        (said[-1].split("\n")[0] if len(said) > 1 else "", 0),
        (text, -1),
    ):
        found = list(values(part))
        if found:
            return found[place]
    return None


def _read(match: re.Match[str]) -> Fraction | None:
    """Return the unsigned value of one match; None where it divides by zero or is absurd."""
    if match["above"] is not None:
        return _divided(match["above"], match["below"])
    if match["top"] is not None:
        part = _divided(match["top"], match["bottom"])
        return part if part is None else part + int(match["whole"] or 0)
    power = int(match["power"] or match["tens"] or 0)
    if abs(power) > _LARGEST_POWER:
        return None
    return Fraction(match["decimal"].replace(",", "")) * Fraction(10) ** power


def _divided(above: str, below: str) -> Fraction | None:
    bottom = int(below.replace(",", ""))
    return Fraction(int(above.replace(",", "")), bottom) if bottom else None


_LETTER_SAID = re.compile(
    r"(?:answer|choice|option)\s*(?:is|:|=)*\s*(?:option\s*)?[*(\[\"'$]*(?:\\boxed\{|\\text\{)*"
    r"(?P<letter>[A-Z])(?![A-Za-z'])",
    re.IGNORECASE,
)
_LETTER_ALONE = re.compile(r"^[*(\[\"'\s]*([A-Z])(?:[).\]:*\"']|\s*$)", re.MULTILINE)
_LETTER_BRACKETED = re.compile(r"\(([A-Z])\)|\\boxed\{(?:\\text\{)?\(?([A-Z])\)?\}?\}")


def letter(text: str) -> str | None:
    """Return the letter of the choice an answer names, or None.

    In this order: the last one after "answer is", "answer:", "option" or "choice"; the last one
    in brackets or a box; the first one that begins a line by itself.
    """
    said = [found for found in _LETTER_SAID.findall(text) if found.isupper()]
    if said:
        return str(said[-1])
    bracketed = ["".join(groups) for groups in _LETTER_BRACKETED.findall(text)]
    if bracketed:
        return bracketed[-1]
    alone = _LETTER_ALONE.search(text)
    return alone[1] if alone else None


EXTRACTORS: Mapping[str, Callable[[str], Extracted]] = {
    "all": whole_text,
    "last-number": final_number,
    "first-number": first_number,
    "number": number,
    "open-instruct": open_instruct,
    "letter": letter,
}
"""What is compared. Numbers are compared by value, so that `24.0` equals `24`; `open-instruct`
compares text."""

"""Answer extraction: one table per extraction, read against what a person would say."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktkit_benchmarks.exact_match import score_exact_match
from pktkit_benchmarks.extraction import EXTRACTORS, letter, number, open_instruct, values

NUMBERS = [
    ("24", "24"),
    ("So the answer is 24.", "24"),
    ("-7", "-7"),
    ("= -7", "-7"),
    ("\u22127 degrees", "-7"),
    ("a loss of -$5", "-5"),
    ("$-5", "-5"),
    ("+5", "5"),
    ("10-3", "3"),
    ("10 - -3", "-3"),
    ("(10)-3", "3"),
    ("$1,234.50.", "1234.5"),
    ("1,000,000 people", "1000000"),
    ("€ 12", "12"),
    ("USD 40", "40"),
    ("USD40", "40"),
    ("\\$18", "18"),
    ("50%", "50"),
    ("12.5 %", "12.5"),
    ("3/4", "3/4"),
    ("-3/4", "-3/4"),
    ("1 3/4 cups", "7/4"),
    ("12/4 = 3", "3"),
    ("\\frac{3}{4}", "3/4"),
    ("$-\\dfrac{3}{4}$", "-3/4"),
    ("1/0", None),
    ("steps 3 + 4 = 7\n#### 42", "42"),
    ("#### -1,024.0.", "-1024"),
    ("#### 24\n\nQuestion: 5 apples", "24"),
    ("7 #### none", "7"),
    ("\\boxed{1{,}200} of 7", "1200"),
    ("thus \\boxed{\\frac{1}{2}}, not 3", "1/2"),
    ("The answer is 12 apples, out of 40.", "12"),
    ("Answer: 9\nThat was question 3.", "9"),
    ("The answer is: **18**", "18"),
    ("1.5e3", "1500"),
    ("2E-2", "1/50"),
    ("6.02 × 10^{23}", "602000000000000000000000"),
    ("3 x 10^2 m", "300"),
    ("5km", "5"),
    ("12 m^2", "12"),
    ("x1 = 4", "4"),
    ("the 2nd of 3rd", "3"),
    ("about .5", "1/2"),
    ("3, 4 and 5", "5"),
    ("3,4", "4"),
    ("24.", "24"),
    ("1e999999", None),
    ("", None),
    ("none at all", None),
    ("-", None),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_number(text: str, expected: str | None) -> None:
    assert number(text) == (None if expected is None else Fraction(expected))


PUBLISHED = [
    ("So the answer is 24.", "24"),
    ("-7", "7"),
    ("-7.5", "75"),
    ("$1,234", "1234"),
    ("3,4", "34"),
    ("24.0", "240"),
    ("first 3 then 5", "5"),
    ("#### 24\nQuestion: 5", "5"),
    ("none", None),
]


@pytest.mark.parametrize(("text", "expected"), PUBLISHED)
def test_published_extraction_with_its_flaws(text: str, expected: str | None) -> None:
    assert open_instruct(text) == expected


LETTERS = [
    ("The answer is (B)", "B"),
    ("The answer is: C", "C"),
    ("Answer: **D**.", "D"),
    ("the answer is $\\boxed{A}$", "A"),
    ("Option C is right", "C"),
    ("not (A) but (D)", "D"),
    ("B. because", "B"),
    ("C", "C"),
    ("So it is\nD)", "D"),
    ("The answer is Berlin", None),
    ("A man walks in", None),
    ("none", None),
]


@pytest.mark.parametrize(("text", "expected"), LETTERS)
def test_letter(text: str, expected: str | None) -> None:
    assert letter(text) == expected


@given(st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=999))
@settings(max_examples=60)
def test_a_written_number_is_read_back(value: Fraction) -> None:
    assert number(f"The answer is {value}.") == value
    assert number(f"17 of them, #### {value}\n") == value


@given(st.integers(-(10**12), 10**12))
@settings(max_examples=60)
def test_thousands_commas_change_nothing(value: int) -> None:
    assert list(values(f"{value:,} pieces")) == [value]


@given(st.text(max_size=80))
@settings(max_examples=150)
def test_no_text_is_too_odd(text: str) -> None:
    for extract in EXTRACTORS.values():
        extract(text)


def test_signs_and_fractions_decide_a_score() -> None:
    gold = "He owes 3 dollars.\n#### -3"
    assert score_exact_match("The answer is 3", gold, "number") == 0.0
    assert score_exact_match("The answer is 3", gold, "open-instruct") == 1.0
    assert score_exact_match("It is 6/8 of a mile", "#### 0.75", "number") == 1.0

"""Workings are right to the letter: examples worked by hand, and a reader of the working that must find the answer."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from luopan.corpus.skills import generate_cases
from luopan.corpus.skills.arithmetic import column_addition, column_subtraction, digit_comparison


@pytest.mark.parametrize(
    ("a", "b", "working"),
    [
        (347, 285, "7+5+0=12 4+8+1=13 3+2+1=6 0"),
        (5, 7, "5+7+0=12 1"),
        (47, 5, "7+5+0=12 4+0+1=5 0"),
        (0, 0, "0+0+0=0 0"),
        (999, 1, "9+1+0=10 9+0+1=10 9+0+1=10 1"),
    ],
)
def test_column_addition(a: int, b: int, working: str) -> None:
    assert column_addition(a, b) == working


@pytest.mark.parametrize(
    ("a", "b", "working"),
    [
        (532, 285, "12-5-0=7 13-8-1=4 5-2-1=2"),
        (104, 0, "4-0-0=4 0-0-0=0 1-0-0=1"),
        (100, 1, "10-1-0=9 10-0-1=9 1-0-1=0"),
        (7, 7, "7-7-0=0"),
    ],
)
def test_column_subtraction(a: int, b: int, working: str) -> None:
    assert column_subtraction(a, b) == working


def test_a_negative_difference_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        column_subtraction(3, 5)


@pytest.mark.parametrize(("a", "b", "working"), [(482, 475, "4=4 8>7"), (7, 52, "0<5"), (3, 3, "3=3"), (1, 2, "1<2")])
def test_digit_comparison(a: int, b: int, working: str) -> None:
    assert digit_comparison(a, b) == working


def test_the_answer_can_be_read_off_the_working_of_every_sum() -> None:
    for case in generate_cases("addition", 500, 0, thinking=1, digits=(1, 2, 3, 4)):
        *columns, carry = case.reference["reasoning_content"].split()
        low_first = "".join(column.split("=")[1][-1] for column in columns)
        assert int(carry + low_first[::-1]) == int(case.answer)
        assert all(sum(map(int, column.split("=")[0].split("+"))) == int(column.split("=")[1]) for column in columns)
        assert sum(map(int, re.findall(r"\d+", case.question))) == int(case.answer)


def test_the_answer_can_be_read_off_the_working_of_every_difference() -> None:
    for case in generate_cases("subtraction", 500, 0, thinking=1):
        low_first = "".join(column.split("=")[1] for column in case.reference["reasoning_content"].split())
        assert int(low_first[::-1]) == int(case.answer) >= 0
        first, second = map(int, re.findall(r"\d+", case.question))
        assert abs(first - second) == int(case.answer)


def test_the_answer_of_a_comparison_is_the_larger_or_smaller_one() -> None:
    for case in generate_cases("comparison", 500, 0):
        a, b = map(int, re.findall(r"\d+", case.question))
        assert a != b and int(case.answer) == (max(a, b) if case.variant == "larger" else min(a, b))
        assert case.variant in case.question or "bigger" in case.question


def test_a_sequence_goes_on_by_its_step() -> None:
    for case in generate_cases("sequence", 500, 0):
        numbers = [*map(int, re.findall(r"\d+", case.question)), int(case.answer)]
        assert len({b - a for a, b in pairwise(numbers)}) == 1
        assert (numbers[1] > numbers[0]) == (case.variant == "rising")
        assert min(numbers) >= 0 and max(numbers) < 100


def test_digits_choose_the_longer_number() -> None:
    for case in generate_cases("addition", 200, 0, digits=(3,)):
        assert max(len(number) for number in re.findall(r"\d+", case.question)) == 3


def test_the_order_of_the_summands_does_not_cross_the_split() -> None:
    def pairs(split: str, n: int) -> set[tuple[int, ...]]:
        cases = generate_cases("addition", n, 0, split, digits=(2,))
        return {tuple(sorted(map(int, re.findall(r"\d+", case.question)))) for case in cases}

    assert not pairs("train", 8000) & pairs("test", 400)

"""Arithmetic skills with working: addition, subtraction, comparison, the next number of a sequence.

The working goes digit by digit from the least significant end, because a small model cannot know the first digit of
a sum before it has carried: `347 + 285` is worked as `7+5+0=12 4+8+1=13 3+2+1=6 0` (digit + digit + carry, last the
carry that is left). Subtraction writes the borrowed ten into the column it helps: `532 - 285` is
`12-5-0=7 13-8-1=4 5-2-1=2` (digit - digit - borrow; a left side of ten or more borrows from the next column).
Comparison goes from the most significant digit to the first that differs: `482, 475` is `4=4 8>7`.

The answer is the bare number. Honest limit: no model of this size adds numbers longer than those it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from luopan.corpus.skills.case import Draft, Skill, Split, check_share

ADDITION = (
    "What is {a} + {b}?",
    "{a} + {b} = ?",
    "Add {a} and {b}.",
    "How much is {a} + {b}?",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "What is {a} plus {b}?",
    "Please add {a} and {b}.",
)
SUBTRACTION = (
    "What is {a} - {b}?",
    "{a} - {b} = ?",
    "Subtract {b} from {a}.",
    "How much is {a} - {b}?",
    "Calculate {a} - {b}.",
    "What is {a} minus {b}?",
    "Please take {b} away from {a}.",
)
LARGER = (
    "Which is larger, {a} or {b}?",
    "Which number is larger: {a} or {b}?",
    "Which is bigger, {a} or {b}?",
    "What is the larger number, {a} or {b}?",
    "Tell me the larger of {a} and {b}.",
)
SMALLER = (
    "Which is smaller, {a} or {b}?",
    "Which number is smaller: {a} or {b}?",
    "What is the smaller number, {a} or {b}?",
    "Tell me the smaller of {a} and {b}.",
)
SEQUENCE = (
    "What comes next: {numbers}?",
    "What is the next number: {numbers}?",
    "Which number follows {numbers}?",
    "Continue: {numbers}",
    "{numbers}, ?",
)


@dataclass(frozen=True)
class DigitOptions:
    """`digits` are the lengths of the longer number, drawn evenly: (2, 2, 3) gives twice as many of two digits."""

    digits: tuple[int, ...] = (1, 2, 3)
    thinking: float = 0.5

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        if not self.digits or not all(isinstance(count, int) and 1 <= count <= 12 for count in self.digits):
            raise ValueError(f"digits is {self.digits!r}; it is a list of lengths between 1 and 12")


@dataclass(frozen=True)
class ComparisonOptions(DigitOptions):
    """`kinds` are the questions asked: "larger", "smaller" or both."""

    kinds: tuple[str, ...] = ("larger", "smaller")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds or not set(self.kinds) <= {"larger", "smaller"}:
            raise ValueError(f'kinds is {self.kinds!r}; it holds "larger", "smaller" or both')


@dataclass(frozen=True)
class SequenceOptions:
    """Arithmetic progressions of `terms` numbers below 100; the step goes up to `max_step`, down too if `falling`."""

    terms: tuple[int, ...] = (3, 4)
    max_step: int = 9
    falling: bool = True
    thinking: float = 0.5

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        if not self.terms or min(self.terms) < 2:
            raise ValueError(f"terms is {self.terms!r}; a step shows only between two numbers")
        if not 1 <= self.max_step <= 99 // max(self.terms):
            raise ValueError(f"max_step is {self.max_step!r}; it lies between 1 and 99 / terms")


def number_with_digits(random: Random, digits: int) -> int:
    """A number of exactly that many digits (0 counts as one)."""
    return random.randrange(0 if digits == 1 else 10 ** (digits - 1), 10**digits)


def column_addition(a: int, b: int) -> str:
    """The working of a + b, least significant digit first."""
    steps, carry = [], 0
    for upper, lower in _columns(a, b):
        total = upper + lower + carry
        steps.append(f"{upper}+{lower}+{carry}={total}")
        carry = total // 10
    return f"{' '.join(steps)} {carry}"


def column_subtraction(a: int, b: int) -> str:
    """The working of a - b for a >= b, least significant digit first."""
    if a < b:
        raise ValueError(f"{a} - {b} is negative")
    steps, borrow = [], 0
    for upper, lower in _columns(a, b):
        lent = upper + 10 if upper < lower + borrow else upper
        steps.append(f"{lent}-{lower}-{borrow}={lent - lower - borrow}")
        borrow = int(lent >= 10)
    return " ".join(steps)


def digit_comparison(a: int, b: int) -> str:
    """Digits compared from the most significant end, up to the first difference; the shorter number starts with 0."""
    steps = []
    for upper, lower in reversed(_columns(a, b)):
        steps.append(f"{upper}{'=' if upper == lower else '>' if upper > lower else '<'}{lower}")
        if upper != lower:
            break
    return " ".join(steps)


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    """Pairs of digits from the least significant end; the shorter number is filled with 0."""
    width = max(len(str(a)), len(str(b)))
    upper, lower = str(a).rjust(width, "0"), str(b).rjust(width, "0")
    return [(int(upper[i]), int(lower[i])) for i in range(width - 1, -1, -1)]


def _pair(random: Random, digits: int) -> tuple[int, int]:
    """Two numbers, the longer of that many digits; one in four pairs mixes lengths."""
    a = number_with_digits(random, digits)
    b = number_with_digits(random, digits if random.random() < 0.75 else random.randint(1, digits))
    return (a, b) if random.random() < 0.5 else (b, a)


def _digits(count: int) -> str:
    return f"{count} digit{'s' if count > 1 else ''}"


def draw_addition(random: Random, options: DigitOptions, split: Split) -> Draft:
    digits = random.choice(options.digits)
    a, b = _pair(random, digits)
    return Draft(
        user=random.choice(ADDITION).format(a=a, b=b),
        answer=str(a + b),
        verifier="number",
        verifier_args={"answer": a + b},
        key=f"{min(a, b)}+{max(a, b)}",
        thinking=column_addition(a, b),
        variant=_digits(digits),
    )


def draw_subtraction(random: Random, options: DigitOptions, split: Split) -> Draft:
    digits = random.choice(options.digits)
    a, b = sorted(_pair(random, digits), reverse=True)
    return Draft(
        user=random.choice(SUBTRACTION).format(a=a, b=b),
        answer=str(a - b),
        verifier="number",
        verifier_args={"answer": a - b},
        key=f"{a}-{b}",
        thinking=column_subtraction(a, b),
        variant=_digits(digits),
    )


def draw_comparison(random: Random, options: ComparisonOptions, split: Split) -> Draft:
    digits = random.choice(options.digits)
    a, b = _pair(random, digits)
    if digits > 1 and random.random() < 0.4:  # else the first digit decides nearly always
        b = a - a % 10 + random.randrange(10)
    if a == b:
        b = a + 1 if a % 10 < 9 else a - 1
    kind = random.choice(options.kinds)
    answer = max(a, b) if kind == "larger" else min(a, b)
    return Draft(
        user=random.choice(LARGER if kind == "larger" else SMALLER).format(a=a, b=b),
        answer=str(answer),
        verifier="number",
        verifier_args={"answer": answer},
        key=f"{min(a, b)}/{max(a, b)}",
        thinking=digit_comparison(a, b),
        variant=kind,
    )


def draw_sequence(random: Random, options: SequenceOptions, split: Split) -> Draft:
    terms = random.choice(options.terms)
    step = random.randint(1, options.max_step)
    low = random.randrange(0, 100 - step * terms)
    numbers = [low + step * i for i in range(terms + 1)]
    if options.falling and random.random() < 0.5:
        numbers.reverse()
    *shown, answer = numbers
    sign = "+" if answer > shown[-1] else "-"
    return Draft(
        user=random.choice(SEQUENCE).format(numbers=", ".join(map(str, shown))),
        answer=str(answer),
        verifier="number",
        verifier_args={"answer": answer},
        key=",".join(map(str, shown)),
        thinking=f"{shown[-2]}{sign}{step}={shown[-1]} {shown[-1]}{sign}{step}={answer}",
        variant="rising" if sign == "+" else "falling",
    )


SKILLS = (
    Skill("addition", draw_addition, DigitOptions),
    Skill("subtraction", draw_subtraction, DigitOptions),
    Skill("comparison", draw_comparison, ComparisonOptions),
    Skill("sequence", draw_sequence, SequenceOptions),
)

r"""Mathematics: `math` (equal as expressions, by math-verify) and `numeric` (equal within a tolerance).

`math` compares what `final_answer` finds with the reference by computer algebra: 1/2 is 0.5 and \frac{2}{4}, x+1 is
1+x, {1, 2} is {2, 1}; decimals are compared to six places. The package limits its time by signals, which do nothing off
the main thread; that is switched off here, and the whole verifier runs in a process that can be ended (`bounded`).

Where the reference is a number, a sum or product that is not worked out ("2+3" for 5) is wrong, though it is equal: a
model would be paid for repeating the question.

Limits, math-verify's own: 50% equals 0.5 and 50 alike; units are dropped (5 cm is 5 m); what is not worked out in
another form (an integral, a root of a square) is equal to its value.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from luopan.evals.final_answer import Where, final_answer, has_prose, last_boxed
from luopan.evals.verdict import Verdict, judged

_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+(?:\.\d+)?)?")
_NEGATION = re.compile(r"\b(not|isn't|no|never|neither|nor)\b", re.IGNORECASE)
_UNDONE = re.compile(r"[\d)}]\s*(?:[-−+*×]|\\times|\\cdot)\s*(?!10\s*\^)[\d({\\]")
_SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d+)?)[eE]\+?(-?\d+)")
_EQUALS = re.compile(r"(?<![<>!=:])=(?!=)")
_WHOLE = re.compile(r"[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)")


def math(text: str, *, answer: int | float | str, where: Where = "final") -> Verdict:
    """The final answer equals the reference, which may be a number, LaTeX, a box or a GSM8K solution ("… #### 72").

    `where`: "boxed" believes a box alone, "last" falls back on the last expression of the last line.
    """
    reference = _reference(str(answer))
    if has_prose(reference):
        return Verdict(None, f"the reference {answer!r} is no mathematical expression (`exact` compares words)")
    given = final_answer(text, where)
    if given is None:
        return Verdict(0.0, "no final answer" if where != "boxed" else "no box")
    if _WHOLE.fullmatch(given) and _WHOLE.fullmatch(reference):
        return judged(_whole(given) == _whole(reference), f"{given}, expected {reference}")
    if has_prose(given) and _NEGATION.search(given):
        return Verdict(0.0, "the answer is denied")
    if _value(reference) is not None:
        side = _EQUALS.split(given)[-1]
        given = side if any(map(str.isdigit, side)) else given
        if _UNDONE.search(given):
            return Verdict(0.0, f"not worked out: {given[:80]}")
    gold = _parsed(reference)
    if not gold:
        return Verdict(None, f"the reference {answer!r} cannot be parsed")
    import math_verify

    found = _parsed(given)
    equal = bool(found) and math_verify.verify(gold, found, timeout_seconds=None)
    return judged(equal, f"{given[:80]}, expected {reference}" if found else f"cannot be parsed: {given[:80]}")


def numeric(
    text: str, *, answer: int | float | str, tolerance: float = 0.0, relative: float = 0.0, where: Where = "final"
) -> Verdict:
    """The one number of the final answer is within max(tolerance, relative·|reference|) of the reference.

    Reads signs, thousands, decimals, exponents and fractions; with `where` "last" the last of several numbers counts.
    """
    expected = _value(_reference(str(answer)))
    if expected is None:
        return Verdict(None, f"the reference {answer!r} is not a number")
    if not (tolerance >= 0 and relative >= 0):
        return Verdict(None, "a tolerance is not negative")
    given = final_answer(text, where)
    if given is None:
        return Verdict(0.0, "no final answer")
    found = [one.group() for one in _NUMBER.finditer(given) if one.group()]
    if not found or (len(found) > 1 and where != "last"):
        return Verdict(0.0, f"{len(found)} numbers in {given[:80]!r}")
    if _NEGATION.search(given):
        return Verdict(0.0, "the number is denied")
    value = _value(found[-1])
    near = value is not None and abs(value - expected) <= max(tolerance, relative * abs(expected))
    return judged(near, f"{found[-1]}, expected {answer}")


def _reference(answer: str) -> str:
    """What counts of a reference: what follows the hashes, is in the last box, or all of it without dollars."""
    if "####" in answer:
        answer = answer.rpartition("####")[2]
    boxed = last_boxed(answer)
    return (answer if boxed is None else boxed).strip().strip("$").strip()


def _whole(number: str) -> int | str:
    digits = number.replace(",", "").replace("−", "-")
    return int(digits) if len(digits) < 4000 else digits  # Python refuses longer ones


def _value(number: str) -> float | None:
    """A float, or None for what is none: a fraction with a zero below, a word, an overflow."""
    upper, _, lower = number.replace(",", "").replace("−", "-").partition("/")
    try:
        value = float(upper) / float(lower or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if value == value and abs(value) != float("inf") else None


def _parsed(expression: str) -> list[Any]:
    """The expression as computer algebra has it and as text; [] where only text came out."""
    from math_verify import parse

    if plain := _SCIENTIFIC.fullmatch(expression):
        expression = rf"{plain[1]} \cdot 10^{{{plain[2]}}}"
    # In a box all of it is LaTeX, which would read words as products of letters; beside words the package looks.
    text = expression if has_prose(expression) or not expression else rf"\boxed{{{expression}}}"
    found = parse(text, extraction_config=_ways(), parsing_timeout=None)
    return found if found and not isinstance(found[0], str) else []


@cache
def _ways() -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off
    return [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

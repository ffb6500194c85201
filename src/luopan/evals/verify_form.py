"""The form of an answer: a choice among letters, JSON (by a schema), a pattern.

All run where they can be ended (`bounded`): a pattern may need exponential time, one inside a schema too.

Limits: `choice` knows English ways to state a letter; `pattern` judges what it matches, not what the text says.
"""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Sequence
from typing import Any

from luopan.evals.final_answer import last_boxed
from luopan.evals.verdict import Verdict, judged, normalise

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choice(text: str, *, answer: str, choices: Sequence[str] = ()) -> Verdict:
    """States the right letter and no other: "B", "(B) Paris", "The answer is (B)", a box, or the choice's own words.

    `answer` is the letter. A letter in passing ("option B looks odd") is not stated; two that differ are wrong, and so
    is a letter with the words of another choice.
    """
    letter = answer.strip().strip("()").upper()
    letters = _LETTERS[: len(choices)] if choices else _LETTERS
    if len(letter) != 1 or letter not in letters:
        return Verdict(None, f"the reference {answer!r} is not one of the letters {letters}")
    stated = _stated_letters(text, letters, choices)
    if len(stated) != 1:
        return Verdict(0.0, f"states several letters: {', '.join(sorted(stated))}" if stated else "states no letter")
    return judged(stated == {letter}, f"{stated.pop()}, expected {letter}")


def _stated_letters(text: str, letters: str, choices: Sequence[str]) -> set[str]:
    """The letters that the text gives as its answer."""
    words = {normalise(words): letter for letter, words in zip(letters, choices)}
    whole = text.strip().strip("*").strip()
    one = rf"(?:\\text\{{)?[(\[]?([{letters}{letters.lower()}])[)\]]?\}}?"
    if boxed := last_boxed(text):
        whole = boxed
    if alone := re.fullmatch(rf"{one}[.:]?", whole):
        return {alone[1].upper()}
    if normalise(whole) in words:
        return {words[normalise(whole)]}
    verb = r"(?:\s+(?:is|would be|must be)|\s*\**\s*:)"
    stated = rf"(?i:\b(?:answer|choice|option){verb}\s*\**:?\s*(?:option\s+)?)\**[(\[]?\**([{letters}])\b(?!')"
    found = set(re.findall(stated, text))
    if not found and (leading := re.match(rf"\(?([{letters}])(?:[).:]|\s*[-–:])\**\s*(.*)", whole, re.DOTALL)):
        found = {leading[1]} | ({words[normalise(leading[2])]} if normalise(leading[2]) in words else set())
    return found


def json(text: str, *, schema: dict[str, Any] | bool | None = None, fenced: bool = True) -> Verdict:
    """The whole answer is JSON, if `fenced` in one fence of Markdown perhaps, and fits the schema (2020-12 by default).

    NaN and Infinity are no JSON. References are looked up in the schema itself only, never on the network.
    """
    body = text.strip()
    if fenced and (fence := _FENCED.fullmatch(body)):
        body = fence[1]
    try:
        value = json_format.loads(body, parse_constant=_refuse)
    except RecursionError:
        return Verdict(0.0, "nested too deeply")
    except ValueError as error:
        return Verdict(0.0, f"no JSON: {error}")
    return Verdict(1.0) if schema is None else _fits(value, schema)


def _fits(value: Any, schema: dict[str, Any] | bool) -> Verdict:
    try:
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        return Verdict(None, "a schema needs the package jsonschema: pip install 'luopan[verify]'")
    kind = validators.validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
        errors = sorted(kind(schema, registry=Registry()).iter_errors(value), key=lambda error: len(error.path))
    except SchemaError as error:
        return Verdict(None, f"the schema is none: {error.message[:200]}")
    except Unresolvable as error:
        return Verdict(None, f"the schema refers to what is not in it: {error}")
    if not errors:
        return Verdict(1.0)
    place = "/".join(map(str, errors[0].path)) or "the top"
    return Verdict(0.0, f"at {place}: {errors[0].message[:200]}")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def pattern(
    text: str,
    *,
    regex: str,
    whole: bool = False,
    ignore_case: bool = False,
    multiline: bool = False,
    absent: bool = False,
) -> Verdict:
    """Python's regular expression is found in the answer (`whole`: matches all of it; `absent`: is not found).

    `.` matches line ends too; `multiline` lets ^ and $ match at lines.
    """
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0) | (re.MULTILINE if multiline else 0)
    try:
        compiled = re.compile(regex, flags)
    except (re.error, RecursionError, OverflowError) as error:
        return Verdict(None, f"{regex!r} is no regular expression: {error}")
    found = (compiled.fullmatch if whole else compiled.search)(text) is not None
    if absent:
        return judged(not found and bool(text), f"{regex!r} is there" if found else "the answer is empty")
    return judged(found, f"{regex!r} does not match")

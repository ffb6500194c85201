"""Rules that need nothing installed: the right text, number, items, letters or phrases, manners, several at once.

Each is fair about white space, case, quotes and the full stop, and strict about the rest: an answer that merely holds
the right number among others is wrong, for otherwise a model is rewarded for listing all of them.

Limits: rules know the forms they were written for. `contains` believes any sentence with the right words in it, and
`number` reads digits only ("twelve" is no number to it).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from luopan.corpus.skills.pairs import flaw_marks
from luopan.evals.verdict import EDGES, THINK_CLOSE, THINK_OPEN, Verdict, judged, normalise

_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?")
_BEFORE = re.compile(r"[\w.]$|/\s*$|\w\s*[+*^]\s*$")  # digits stuck to it, or a sum that it is only a term of
_AFTER = re.compile(r"\w|\.\w|\s*[/^%]|\s*[+*=]\s*\w")
_NEGATION = re.compile(r"\b(not|isn't|no|never|neither|nor)\b", re.IGNORECASE)


def exact(text: str, *, answer: str) -> Verdict:
    """The whole answer equals the reference, up to case, spaces and punctuation at the ends."""
    return judged(normalise(text) == normalise(answer), f"expected {answer!r}")


def one_of(text: str, *, answers: Sequence[str]) -> Verdict:
    """The whole answer equals one of the references, as in `exact`."""
    return judged(normalise(text) in {normalise(answer) for answer in answers}, f"expected one of {list(answers)!r}")


def number(text: str, *, answer: int | float | str) -> Verdict:
    """The one number in the answer equals the reference: "130", "It is 130." and "130.0" do, "12+118=130" does not.

    Digits stuck to letters, a second number (even the same again) or a "not" make it wrong.
    """
    try:
        expected = Decimal(str(answer).replace("−", "-").replace(",", ""))
    except ArithmeticError:
        return Verdict(None, f"the reference {answer!r} is not a number")
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return Verdict(0.0, f"{len(found)} numbers in the answer, expected {answer}" if found else "no number")
    start, end = found[0].span()
    if _BEFORE.search(text[:start]) or _AFTER.match(text[end:]):
        return Verdict(0.0, "the number is part of something else")
    if _NEGATION.search(text):
        return Verdict(0.0, "the number is denied")
    value = Decimal(found[0].group().replace("−", "-").replace(",", ""))
    return judged(value == expected, f"{value}, expected {answer}")


def items(text: str, *, answer: str | Sequence[str]) -> Verdict:
    """The same items in the same order, whatever separates them: "3 7 9", "3, 7, 9." and "[3, 7, 9]" are the same."""
    expected = _split_items(answer if isinstance(answer, str) else " ".join(answer))
    if not expected:
        return Verdict(None, "the reference holds no items")
    return judged(_split_items(text) == expected, f"expected {' '.join(expected)!r}")


def letters(text: str, *, answer: str) -> Verdict:
    """The same letters in the same order, with or without spaces or dashes between them."""
    expected = _letters(answer)
    if not expected:
        return Verdict(None, "the reference holds no letters")
    return judged(_letters(text) == expected, f"expected {answer!r}")


def contains(text: str, *, all: Sequence[str] = (), any: Sequence[str] = (), none: Sequence[str] = ()) -> Verdict:
    """Every phrase of `all`, at least one of `any` and none of `none` occur, as whole words, up to case."""
    if not (all or any or none):
        return Verdict(None, "no phrases to look for")
    for phrase in all:
        if not has_phrase(text, phrase):
            return Verdict(0.0, f"{phrase!r} is missing")
    for phrase in none:
        if has_phrase(text, phrase):
            return Verdict(0.0, f"{phrase!r} should not be there")
    if any and not [phrase for phrase in any if has_phrase(text, phrase)]:
        return Verdict(0.0, f"none of {list(any)!r} is there")
    return judged(bool(text.strip()), "the answer is empty")


def style(text: str, *, kind: str, value: str = "") -> Verdict:
    """The answer shows a mark: `uppercase`, `lowercase`, `ends_with`, `starts_with` or `says` the value.

    With `ends_with` and `starts_with` something must be said beside the mark, and the mark must show once only.
    """
    if kind in ("uppercase", "lowercase"):
        cased = [letter for letter in text if letter.isalpha()]
        wanted = str.isupper if kind == "uppercase" else str.islower
        wrong = [letter for letter in cased if not wanted(letter)]
        return judged(bool(cased) and not wrong, f"not all in {kind}")
    plain, mark = " ".join(text.split()), " ".join(value.split())
    if not mark or kind not in ("ends_with", "starts_with", "says"):
        return Verdict(None, f"there is no style {kind!r} with value {value!r}")
    if kind == "says":
        return judged(has_phrase(plain, mark), f"does not say {value!r}")
    placed = plain.endswith(mark) if kind == "ends_with" else plain.startswith(mark)
    if not placed:
        return Verdict(0.0, f"{kind.replace('_', ' ')} something else than {value!r}")
    return judged(plain != mark and plain.count(mark) == 1, "says nothing but the mark, or says it twice")


def unmarked(text: str, *, styles: Sequence[Mapping[str, str]]) -> Verdict:
    """None of the styles shows, wherever in the answer their value stands."""
    for mark in styles:
        value = mark.get("value", "")
        shows = has_phrase(text, value) if value else style(text, **mark).passed
        if shows:
            return Verdict(0.0, f"shows {value or mark['kind']!r}")
    return judged(bool(text.strip()), "the answer is empty")


def polite(text: str) -> Verdict:
    """None of the marks of the rude tails in `luopan.corpus.skills.pairs` occurs."""
    return contains(text, none=flaw_marks("rude"))


def concise(text: str) -> Verdict:
    """None of the marks of the rambling tails in `luopan.corpus.skills.pairs` occurs."""
    return contains(text, none=flaw_marks("rambling"))


def thinking_format(text: str, *, enable_thinking: bool) -> Verdict:
    """With thinking: one `<think>` block with something in it, then an answer. Without: no such tag at all.

    The text must be raw, its thinking still on.
    """
    opened, closed = text.count(THINK_OPEN), text.count(THINK_CLOSE)
    if not enable_thinking:
        return judged(opened + closed == 0 and bool(text.strip()), "thinks, or says nothing, though thinking is off")
    if (opened, closed) != (1, 1) or not text.lstrip().startswith(THINK_OPEN):
        return Verdict(0.0, f"{opened} {THINK_OPEN} and {closed} {THINK_CLOSE}, or text before the thought")
    thought, _, answer = text.partition(THINK_CLOSE)
    said = bool(thought.replace(THINK_OPEN, "").strip()) and bool(answer.strip())
    return judged(said, "an empty thought, or no answer after it")


def all_of(text: str, *, checks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Every check passes: {"name": verifier, "args": {...}, "part": what it is called in `Verdict.parts`}.

    The text is raw, so that `thinking_format` may be one of the checks.
    """
    from luopan.evals.verifiers import Job, verify_many  # the table that this rule is a row of

    if not checks:
        return Verdict(None, "no checks")
    if malformed := [check for check in checks if not isinstance(check.get("name"), str)]:
        return Verdict(None, f"a check without a name: {malformed[0]!r}")
    given = verify_many([Job(check["name"], text, check.get("args") or {}) for check in checks])
    verdicts = {check.get("part", check["name"]): verdict for check, verdict in zip(checks, given)}
    unscored = [verdict.reason for verdict in verdicts.values() if verdict.score is None]
    if unscored:
        return Verdict(None, "; ".join(unscored))
    parts = {part: verdict.score for part, verdict in verdicts.items() if verdict.score is not None}
    return Verdict(min(parts.values()), "; ".join(v.reason for v in verdicts.values() if v.reason), parts)


def reasoning_gym(text: str, *, task: str, entry: Mapping[str, Any], partial: bool = False) -> Verdict:
    """Right or wrong by reasoning_gym's own scorer; None where it fails.

    The package gives partial credit, for the right number among others too; that is kept only with `partial`.
    """
    score = float(_gym_scorer(task)(answer=text, entry=dict(entry)))
    reason = "" if score >= 1 else f"expected {entry.get('answer')!r}"
    return Verdict(score if partial else float(score >= 1), reason)


@cache
def _gym_scorer(task: str) -> Callable[..., float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(task)


def has_phrase(text: str, phrase: str) -> bool:
    """The phrase occurs as whole words, up to case and the spaces between its words."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if not words:
        return False
    left = r"(?<!\w)" if phrase.strip()[0].isalnum() else ""
    right = r"(?!\w)" if phrase.strip()[-1].isalnum() else ""
    return re.search(f"{left}{words}{right}", text, re.IGNORECASE) is not None


def _split_items(text: str) -> list[str]:
    return [item for item in re.split(r"[\s,;]+", text.casefold().strip(EDGES)) if item]


def _letters(text: str) -> str:
    return re.sub(r"[\s,\-.]+", "", text.casefold().strip(EDGES))

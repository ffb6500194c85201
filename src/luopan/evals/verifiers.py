"""Grade an answer by rule: each verifier returns a score, or None where it could not be scored.

`verify(name, text, **args)` finds one by name, takes the thinking off first and grades what is left; `grade(case,
text)` does the same for a `luopan.corpus.skills.Case`. A verifier is fair about white space, case, quotes and the
full stop, and strict about the rest: an answer that merely holds the right number among others is wrong, for
otherwise a model is rewarded for listing all of them.

A score of None means that the *rule* could not judge (no scorer installed, arguments that make no sense), never that
the answer was bad: an empty answer and a thought that never ends score 0. Rows with None are left out of an average
and counted.

Limits: rules know the forms they were written for. `contains` believes any sentence with the right words in it, and
`number` reads digits only ("twelve" is no number to it).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from typing import Any, Protocol

from luopan.corpus.skills.pairs import flaw_marks
from luopan.errors import LuopanError

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"

_NUMBER = re.compile(r"[-−]?\d+(?:,\d{3})*(?:\.\d+)?")
_BEFORE = re.compile(r"[\w.]$|/\s*$|\w\s*[+*^]\s*$")  # digits stuck to it, or a sum that it is only a term of
_AFTER = re.compile(r"\w|\.\w|\s*[/^%]|\s*[+*=]\s*\w")
_NEGATION = re.compile(r"\b(not|isn't|no|never|neither|nor)\b", re.IGNORECASE)
_EDGES = " \t\r\n.,;:!?\"'`*“”‘’()[]"


@dataclass(frozen=True)
class Verdict:
    """`score` in 0..1, or None where the rule could not judge; `parts` are scores of parts where there are several."""

    score: float | None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.score is not None and self.score >= 1.0


class Verifier(Protocol):
    def __call__(self, text: str, **args: Any) -> Verdict: ...


class Graded(Protocol):
    """What `grade` needs of a case."""

    @property
    def verifier(self) -> str: ...

    @property
    def verifier_args(self) -> dict[str, Any]: ...


def _verdict(passed: bool, reason: str) -> Verdict:
    return Verdict(1.0, "") if passed else Verdict(0.0, reason)


def answer_of(text: str) -> str | None:
    """The text without its thinking: what follows the last `</think>`; None if a thought was opened and not closed.

    Stricter than `luopan.tokens.chat.split_thinking`, which only has to show a text: an opened thought anywhere is no
    answer, or a model could earn its reward inside the thought.
    """
    head, closed, tail = text.rpartition(THINK_CLOSE)
    rest = tail if closed else head + tail
    return None if THINK_OPEN in rest else rest.strip()


def normalise(text: str) -> str:
    """Lower case, single spaces, no punctuation or quotes at either end."""
    return " ".join(text.casefold().split()).strip(_EDGES)


def exact(text: str, *, answer: str) -> Verdict:
    """The whole answer equals the reference, up to case, spaces and punctuation at the ends."""
    return _verdict(normalise(text) == normalise(answer), f"expected {answer!r}")


def one_of(text: str, *, answers: Sequence[str]) -> Verdict:
    """The whole answer equals one of the references, as in `exact`."""
    return _verdict(normalise(text) in {normalise(answer) for answer in answers}, f"expected one of {list(answers)!r}")


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
    return _verdict(value == expected, f"{value}, expected {answer}")


def items(text: str, *, answer: str | Sequence[str]) -> Verdict:
    """The same items in the same order, whatever separates them: "3 7 9", "3, 7, 9." and "[3, 7, 9]" are the same."""
    expected = _split_items(answer if isinstance(answer, str) else " ".join(answer))
    if not expected:
        return Verdict(None, "the reference holds no items")
    return _verdict(_split_items(text) == expected, f"expected {' '.join(expected)!r}")


def letters(text: str, *, answer: str) -> Verdict:
    """The same letters in the same order, with or without spaces or dashes between them."""
    expected = _letters(answer)
    if not expected:
        return Verdict(None, "the reference holds no letters")
    return _verdict(_letters(text) == expected, f"expected {answer!r}")


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
    return _verdict(bool(text.strip()), "the answer is empty")


def style(text: str, *, kind: str, value: str = "") -> Verdict:
    """The answer shows a mark: `uppercase`, `lowercase`, `ends_with`, `starts_with` or `says` the value.

    With `ends_with` and `starts_with` something must be said beside the mark, and the mark must show once only.
    """
    if kind in ("uppercase", "lowercase"):
        cased = [letter for letter in text if letter.isalpha()]
        wanted = str.isupper if kind == "uppercase" else str.islower
        wrong = [letter for letter in cased if not wanted(letter)]
        return _verdict(bool(cased) and not wrong, f"not all in {kind}")
    plain, mark = " ".join(text.split()), " ".join(value.split())
    if not mark or kind not in ("ends_with", "starts_with", "says"):
        return Verdict(None, f"there is no style {kind!r} with value {value!r}")
    if kind == "says":
        return _verdict(has_phrase(plain, mark), f"does not say {value!r}")
    placed = plain.endswith(mark) if kind == "ends_with" else plain.startswith(mark)
    if not placed:
        return Verdict(0.0, f"{kind.replace('_', ' ')} something else than {value!r}")
    return _verdict(plain != mark and plain.count(mark) == 1, "says nothing but the mark, or says it twice")


def unmarked(text: str, *, styles: Sequence[Mapping[str, str]]) -> Verdict:
    """None of the styles shows, wherever in the answer their value stands."""
    for mark in styles:
        value = mark.get("value", "")
        shows = has_phrase(text, value) if value else style(text, **mark).passed
        if shows:
            return Verdict(0.0, f"shows {value or mark['kind']!r}")
    return _verdict(bool(text.strip()), "the answer is empty")


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
        return _verdict(opened + closed == 0 and bool(text.strip()), "thinks, or says nothing, though thinking is off")
    if (opened, closed) != (1, 1) or not text.lstrip().startswith(THINK_OPEN):
        return Verdict(0.0, f"{opened} {THINK_OPEN} and {closed} {THINK_CLOSE}, or text before the thought")
    thought, _, answer = text.partition(THINK_CLOSE)
    said = bool(thought.replace(THINK_OPEN, "").strip()) and bool(answer.strip())
    return _verdict(said, "an empty thought, or no answer after it")


def all_of(text: str, *, checks: Sequence[Mapping[str, Any]]) -> Verdict:
    """Every check passes: {"name": verifier, "args": {...}, "part": what it is called in `Verdict.parts`}."""
    if not checks:
        return Verdict(None, "no checks")
    verdicts = {check.get("part", check["name"]): find(check["name"])(text, **check["args"]) for check in checks}
    unscored = [verdict.reason for verdict in verdicts.values() if verdict.score is None]
    if unscored:
        return Verdict(None, "; ".join(unscored))
    parts = {part: verdict.score for part, verdict in verdicts.items() if verdict.score is not None}
    return Verdict(min(parts.values()), "; ".join(v.reason for v in verdicts.values() if v.reason), parts)


def reasoning_gym(text: str, *, task: str, entry: Mapping[str, Any], partial: bool = False) -> Verdict:
    """Right or wrong by reasoning_gym's own scorer; None if it is missing or fails.

    The package gives partial credit, for the right number among others too; that is kept only with `partial`.
    """
    try:
        score = float(_gym_scorer(task)(answer=text, entry=dict(entry)))
    except ImportError:
        return Verdict(None, "the package reasoning-gym is not installed (pip install 'luopan[quickstart]')")
    except Exception as error:  # a third party's scorer may raise anything; it must not cost a whole evaluation
        return Verdict(None, f"the scorer of {task!r} failed: {type(error).__name__}: {error}")
    reason = "" if score >= 1 else f"expected {entry.get('answer')!r}"
    return Verdict(score if partial else float(score >= 1), reason)


@cache
def _gym_scorer(task: str) -> Callable[..., float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(task)


@cache
def _registry() -> dict[str, Verifier]:
    from luopan.evals.verify_code import code  # which needs Verdict from here

    forms: tuple[Any, ...] = (exact, one_of, number, items, letters, contains, reasoning_gym)
    manners: tuple[Any, ...] = (style, unmarked, polite, concise, thinking_format, all_of, code)
    return {function.__name__: function for function in (*forms, *manners)}


def verifier_names() -> tuple[str, ...]:
    return tuple(_registry())


def find(name: str) -> Verifier:
    """The verifier of that name; a LuopanError with a suggestion if there is none."""
    if name not in _registry():
        near = difflib.get_close_matches(name, _registry(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"verifiers: {', '.join(_registry())}"
        raise LuopanError(f"there is no verifier {name!r}", where="verifiers", hint=hint)
    return _registry()[name]


def verify(name: str, text: str, **args: Any) -> Verdict:
    """Grade `text` with the verifier of that name, its thinking taken off first (`thinking_format` sees it all)."""
    verifier = find(name)
    answer = text if name == "thinking_format" else answer_of(text)
    if answer is None:
        return Verdict(0.0, "the thought never ends")
    try:
        return verifier(answer, **args)
    except TypeError as error:
        return Verdict(None, f"verifier {name!r} cannot take these arguments: {error}")


def grade(case: Graded, text: str) -> Verdict:
    """Grade a sampled answer to a case."""
    return verify(case.verifier, text, **case.verifier_args)


def has_phrase(text: str, phrase: str) -> bool:
    """The phrase occurs as whole words, up to case and the spaces between its words."""
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if not words:
        return False
    left = r"(?<!\w)" if phrase.strip()[0].isalnum() else ""
    right = r"(?!\w)" if phrase.strip()[-1].isalnum() else ""
    return re.search(f"{left}{words}{right}", text, re.IGNORECASE) is not None


def _split_items(text: str) -> list[str]:
    return [item for item in re.split(r"[\s,;]+", text.casefold().strip(_EDGES)) if item]


def _letters(text: str) -> str:
    return re.sub(r"[\s,\-.]+", "", text.casefold().strip(_EDGES))

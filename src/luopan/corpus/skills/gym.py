"""Tasks of the reasoning_gym package (Apache-2.0, an optional dependency) as cases, under the name `rg:<task>`.

Question, answer and scorer are the package's; a working for the thinking form is ours, for the tasks in `WORKINGS`,
and other tasks come without thinking. Cases hold the whole entry, so that the verifier `reasoning_gym` can hand it
back to the package's scorer.

Limits: difficulty is the package's own configuration, handed through `config`; most of its tasks are far beyond a
model of a few million parameters. Importing the package takes seconds, so it happens at the first use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from luopan.corpus.skills.case import Case, Split, assistant_message, check_share, split_of, user_message
from luopan.errors import DataError

GYM_PREFIX = "rg:"

# Small settings for the tasks a small model can learn; the caller's `config` goes over them.
SMALL: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    "gcd": {"min_value": 1, "max_value": 60},
    "letter_counting": {"min_words": 1, "max_words": 2},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "spell_backward": {"min_word_len": 3, "max_word_len": 4},
}


def gym_cases(
    task: str,
    n: int,
    seed: int,
    split: Split,
    *,
    thinking: float = 0.5,
    config: dict[str, Any] | None = None,
    **settings: Any,
) -> list[Case]:
    """`n` cases of a reasoning_gym task; `config` and `settings` are that task's configuration (a recipe's options).
    Fewer where the test runs out."""
    try:
        check_share("thinking", thinking)
    except ValueError as error:
        raise DataError(f"skill 'rg:{task}': {error}", where="skill options") from error
    dataset = _dataset(task, seed, split, {**SMALL.get(task, {}), **(config or {}), **settings})
    working = WORKINGS.get(task)
    cases: list[Case] = []
    seen: set[str] = set()
    for index in range(60 * n + 1000):
        if len(cases) == n:
            break
        entry = dataset[index]
        question = entry["question"].strip()
        if split_of(f"rg:{task}/{question}") != split or (split == "test" and question in seen):
            continue
        seen.add(question)
        thinks = working is not None and _share_of(index, thinking)
        steps = working(entry) if working is not None and thinks else None
        cases.append(_case(task, question, entry, steps))
    return cases


def _case(task: str, question: str, entry: dict[str, Any], thinking: str | None) -> Case:
    return Case(
        skill=f"{GYM_PREFIX}{task}",
        messages=(user_message(question),),
        reference=assistant_message(str(entry["answer"]), thinking),
        verifier="reasoning_gym",
        verifier_args={"task": task, "entry": json.loads(json.dumps(entry, default=str))},
        enable_thinking=thinking is not None,
    )


def _share_of(index: int, share: float) -> bool:
    """True for that share of the indices, evenly spread."""
    return int((index + 1) * share) > int(index * share)


def _dataset(task: str, seed: int, split: Split, config: dict[str, Any]) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError(
            f"skill 'rg:{task}' needs the package reasoning-gym", hint="pip install 'luopan[quickstart]'"
        ) from error
    if task not in DATASETS:
        raise DataError(
            f"reasoning_gym has no task {task!r}", where="skills", hint=f"it has: {', '.join(sorted(DATASETS))}"
        )
    try:
        # Entries are made one by one when asked for, each from (seed, index); the size is only an upper bound.
        return reasoning_gym.create_dataset(task, size=2**31 - 1, seed=seed * 2 + (split == "test"), **config)
    except (TypeError, AssertionError, ValueError) as error:
        raise DataError(f"reasoning_gym refuses the settings of {task!r}: {error}", where="skill options") from error


def chain_working(entry: dict[str, Any]) -> str:
    """A chain of sums from left to right: `4 - 1 + 7` is `4-1=3 3+7=10`."""
    terms = re.findall(r"[+-]?\d+", entry["metadata"]["expression"].replace(" ", ""))
    total, steps = int(terms[0]), []
    for term in terms[1:]:
        signed = int(term)
        steps.append(f"{total}{'+' if signed >= 0 else '-'}{abs(signed)}={total + signed}")
        total += signed
    return " ".join(steps)


def gcd_working(entry: dict[str, Any]) -> str:
    """Euclid's remainders, numbers taken in from the left: `gcd(78, 46)` is `78 46 32 14 4 2 0`."""
    first, *rest = entry["metadata"]["numbers"]
    steps = [first]
    for number in rest:
        a, b = steps[-1] or steps[-2], number
        steps.append(b)
        while b:
            a, b = b, a % b
            steps.append(b)
    return " ".join(map(str, steps))


def letter_working(entry: dict[str, Any]) -> str:
    """The letters one by one with a running count."""
    target, seen, steps = entry["metadata"]["target_letter"], 0, []
    for letter in "".join(entry["metadata"]["span"]):
        seen += letter.lower() == target.lower()
        steps.append(f"{letter} {seen}")
    return ", ".join(steps)


WORKINGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "chain_sum": chain_working,
    "gcd": gcd_working,
    "letter_counting": letter_working,
}

"""Preference pairs with a criterion that can be checked by sampling: a reply, and the same with a flaw at its end.

Two flaws: `rude` (a rude tail) and `rambling` (a tail that goes on and on). For preference training to gain anything
the model must have the flaw first: `contaminate` puts it into a share of the fine-tuning cases, as raw dialogue data
would, so that the fine-tuned model samples it at about that rate, and `generate_pairs` teaches it away. The verifiers
`polite` and `concise` look for the tails' marks.

Judge by *sampled* rates at temperature 1: greedy decoding hides a flaw that sits in a third of the data, and margins
and pair accuracy look perfect while a model collapses.
Limit: the marks know these tails only; a rude reply in other words passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from luopan.corpus.skills.case import Case, Message, Split, assistant_message, check_share
from luopan.corpus.skills.registry import generate_cases
from luopan.corpus.skills.words import rows
from luopan.errors import DataError

VERIFIERS = {"rude": "polite", "rambling": "concise"}


class Pair(NamedTuple):
    """The messages up to the reply, the reply to prefer and the one to avoid."""

    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message


def flaw_tails(flaw: str) -> tuple[str, ...]:
    """The sentences that make a reply flawed; DataError for an unknown flaw."""
    return tuple(_row(flaw)["tails"])


def flaw_marks(flaw: str) -> tuple[str, ...]:
    """Phrases by which the flaw is known; every tail holds at least one."""
    return tuple(_row(flaw)["marks"])


def spoil(random: Random, reply: Message, flaw: str) -> Message:
    """The same reply with a tail of that flaw."""
    content = f"{reply['content']} {random.choice(flaw_tails(flaw))}"
    return {**reply, "content": content}


def contaminate(cases: Sequence[Case], rate: float, *, seed: int = 0, flaw: str = "rude") -> list[Case]:
    """The cases with a share `rate` of the reference replies spoiled, each case by its own draw."""
    _check_rate(rate)
    random = Random(f"contaminate/{flaw}/{seed}")
    return [
        replace(case, reference=spoil(random, case.reference, flaw)) if random.random() < rate else case
        for case in cases
    ]


def generate_pairs(
    n: int,
    seed: int,
    split: Split = "train",
    *,
    flaw: str = "rude",
    skills: Sequence[str] = ("talk", "identity"),
    options: dict[str, dict[str, object]] | None = None,
) -> list[Pair]:
    """`n` pairs over the questions of the given skills in turn, held out as those skills hold out.

    `options` are the skills' own options by skill name. Pairs never think: the flaw sits in what is said.
    """
    flaw_tails(flaw)
    random = Random(f"pairs/{flaw}/{split}/{seed}")
    share = -(-n // len(skills))
    drawn = [
        generate_cases(skill, share, seed, split, **{**(options or {}).get(skill, {}), "thinking": 0.0})
        for skill in skills
    ]
    cases = [case for group in zip(*drawn, strict=False) for case in group][:n]
    return [Pair(case.messages, assistant_message(case.answer), spoil(random, case.reference, flaw)) for case in cases]


def flaw_cases(cases: Sequence[Case], flaw: str = "rude") -> list[Case]:
    """The same questions graded for the absence of the flaw: sample their answers before and after."""
    _row(flaw)
    verifier = VERIFIERS[flaw]
    return [replace(case, skill=verifier, verifier=verifier, verifier_args={}) for case in cases]


def _row(flaw: str) -> dict[str, list[str]]:
    known = {row["flaw"]: row for row in rows("flaws.jsonl")}
    if flaw not in known:
        raise DataError(f"there is no flaw {flaw!r}", where="preference pairs", hint=f"flaws: {', '.join(known)}")
    return known[flaw]


def _check_rate(rate: float) -> None:
    try:
        check_share("rate", rate)
    except ValueError as error:
        raise DataError(str(error), where="contaminate") from error

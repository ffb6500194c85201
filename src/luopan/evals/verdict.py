"""What a verifier says of an answer, and what every verifier does to a text first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
EDGES = " \t\r\n.,;:!?\"'`*“”‘’()[]"


@dataclass(frozen=True)
class Verdict:
    """`score` in 0..1, or None where the rule could not judge; `parts` are scores of parts where there are several."""

    score: float | None
    reason: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.score is not None and self.score >= 1.0


def judged(passed: bool, reason: str) -> Verdict:
    """1, or 0 with the reason."""
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
    return " ".join(text.casefold().split()).strip(EDGES)

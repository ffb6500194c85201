"""Hand-written wordings: which are held out, and the small changes that make more of them.

Limits: the changes (a greeting in front, lower case without a full stop) are mechanical; they teach robustness to
form, never a new meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import blake2b
from random import Random

from luopan.corpus.skills.case import Split

OPENERS = (
    "Hi! ",
    "Hello! ",
    "Hello. ",
    "Okay. ",
    "Please tell me: ",
    "I have a question. ",
    "One more thing. ",
    "Now: ",
)


@cache
def split_wordings(wordings: tuple[str, ...], split: Split, share: float = 0.2) -> tuple[str, ...]:
    """Part of a topic's wordings: those with the lowest hashes are held out, at least one where there are three.

    With fewer than three wordings nothing can be held out: train gets all and test none.
    """
    held_out = max(1, round(share * len(wordings))) if len(wordings) >= 3 else 0
    ranked = sorted(wordings, key=lambda text: blake2b(text.encode(), digest_size=8).digest())
    chosen = set(ranked[:held_out] if split == "test" else ranked[held_out:])
    return tuple(text for text in wordings if text in chosen)


def topic_wordings(wordings: Sequence[str], split: Split) -> tuple[str, ...]:
    """`split_wordings` for the list of a .jsonl row."""
    return split_wordings(tuple(wordings), split)


def dress(random: Random, wording: str, *, openers: bool = True) -> str:
    """The wording as people type it: mostly as it is, now and then in lower case, or after a greeting."""
    draw = random.random()
    if draw < 0.15:
        return wording.rstrip("?.!").lower()
    if draw < 0.4 and openers:
        return random.choice(OPENERS) + wording
    return wording

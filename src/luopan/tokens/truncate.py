"""What becomes of conversations that are longer than a row: set aside, or shortened at borders between turns.

A conversation that is cut anywhere ends in the middle of an answer and teaches to stop nowhere, or keeps a prompt whose
answer is gone. So the policies cut at turns: `keep_head` leaves off the last turns until the rest fits; `split_turns`
makes several of one, each with the system prompt in front and beginning with a user's turn. `split_tokens` cuts the
tokens into pieces as they come, for running text; a piece with nothing to learn is left out. All that is lost is
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from luopan.tokens.chat import Conversation
from luopan.tokens.example import Example
from luopan.tokens.messages import Message

Truncation = Literal["drop", "keep_head", "split_turns", "split_tokens"]
Encode = Callable[[Conversation], Example | None]
"""A conversation as tokens without a limit; None where it cannot be encoded."""


@dataclass(frozen=True)
class Shortened:
    """What is left of a long conversation, and how many tokens are lost that would have been learnt."""

    examples: list[Example]
    lost: int


def shorten(row: Conversation, example: Example, max_length: int, policy: Truncation, encode: Encode) -> Shortened:
    """Pieces of at most `max_length` tokens of `row`, whose tokens are `example`; none where nothing fits."""
    if policy == "keep_head":
        found = _head(row, max_length, encode)
        kept = [found] if found is not None else []
    elif policy == "split_turns":
        kept = _pieces(row, max_length, encode)
    elif policy == "split_tokens":
        kept = [piece for piece in cut(example, max_length) if piece.num_trained]
    else:
        kept = []
    return Shortened(kept, example.num_trained - sum(piece.num_trained for piece in kept))


def cut(example: Example, max_length: int) -> list[Example]:
    """Consecutive pieces. The first token of a later piece has nothing before it and is not learnt."""
    ids, labels = list(example.input_ids), list(example.labels)
    return [
        Example(ids[start : start + max_length], labels[start : start + max_length])
        for start in range(0, len(ids), max_length)
    ]


def _head(row: Conversation, max_length: int, encode: Encode) -> Example | None:
    """The longest beginning that ends with an assistant's turn and fits."""
    for end in reversed(_ends(row.messages)):
        if end == len(row.messages):
            continue  # the whole of it is too long
        found = encode(replace(row, messages=row.messages[:end]))
        if found is not None and len(found) <= max_length:
            return found
    return None


def _pieces(row: Conversation, max_length: int, encode: Encode) -> list[Example]:
    """As few pieces as fit, taken from the front; an exchange that is too long by itself is left out."""
    system = [m for m in row.messages[:1] if m["role"] == "system"]
    turns = list(row.messages[len(system) :])
    pieces: list[Example] = []
    start = 0
    while start < len(turns):
        best: tuple[int, Example] | None = None
        for end in _ends(turns):
            if end <= start:
                continue
            found = encode(replace(row, messages=[*system, *turns[start:end]]))
            if found is None:
                continue  # nothing in it is learnt, or not without what follows
            if len(found) > max_length:
                break
            best = end, found
        if best is not None:
            pieces.append(best[1])
        start = _next_user(turns, best[0] if best else start + 1)
    return pieces


def _ends(messages: Sequence[Message]) -> list[int]:
    """Lengths of the beginnings that end with an assistant's turn that is not waiting for a tool."""
    return [
        number
        for number, message in enumerate(messages, start=1)
        if message["role"] == "assistant" and not (number < len(messages) and messages[number]["role"] == "tool")
    ]


def _next_user(messages: Sequence[Message], start: int) -> int:
    """Where the first user's turn from `start` on stands; behind the end if there is none."""
    return next((i for i in range(start, len(messages)) if messages[i]["role"] == "user"), len(messages))

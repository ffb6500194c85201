"""Everyday small talk: greetings, thanks, feelings, weather, jokes; and what the user said about themselves.

A topic has several user lines and one or a few replies. Some have a slot ("My name is {name}.") and a follow-up
("What is my name?") that asks for it a turn later: the answer must come from the conversation; asked without having
been told, the right answer is that it was not told. Other cases begin with an unrelated exchange or two, so that the
model learns to answer the last turn.

About one user line in five of each topic is held out; earlier turns of test cases come from training lines.
Limit: outside these topics the model can only say what it learned here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from luopan.corpus.skills.case import Draft, Message, Skill, Split, assistant_message, check_share, user_message
from luopan.corpus.skills.identity import contains_args
from luopan.corpus.skills.wording import dress, topic_wordings
from luopan.corpus.skills.words import rows, words

SLOTS = {"name": "names", "city": "cities", "color": "colors", "food": "foods"}
UNTOLD = "You did not tell me that."


@dataclass(frozen=True)
class TalkOptions:
    """`multi_turn`: share of cases after other exchanges; `follow`: share that asks back; `untold`: those untold."""

    multi_turn: float = 0.3
    follow: float = 0.15
    untold: float = 0.15
    thinking: float = 0.1

    def __post_init__(self) -> None:
        for name in ("multi_turn", "follow", "untold", "thinking"):
            check_share(name, getattr(self, name))


@cache
def talk_rows(*, slots: bool = True) -> tuple[dict[str, Any], ...]:
    """The topics; `slots=False` leaves out those in which the user says something about themselves."""
    return tuple(row for row in rows("talk.jsonl") if slots or "slot" not in row)


def slot_filler(random: Random, row: dict[str, Any]) -> Callable[[str], str]:
    """A function that fills the row's slot, the same each time it is called."""
    slot = row.get("slot")
    if slot is None:
        return str
    value = random.choice(words(SLOTS[slot]))
    return lambda text: text.replace(f"{{{slot}}}", value)


def draw_talk(random: Random, options: TalkOptions, split: Split) -> Draft:
    context: tuple[Message, ...] = ()
    if random.random() < options.multi_turn:
        for _ in range(random.randint(1, 2)):
            context += _exchange(random, random.choice(talk_rows(slots=False)))
    if random.random() < options.follow:
        return _follow_up(random, options, split, context)
    found = talk_rows()
    row = random.choices(found, weights=[row.get("weight", 1) for row in found])[0]
    fill = slot_filler(random, row)
    return Draft(
        user=fill(dress(random, random.choice(topic_wordings(row["users"], split)), openers=False)),
        answer=fill(random.choice(row["replies"])),
        verifier="contains",
        verifier_args=contains_args(row, fill),
        thinking=fill(row["thinking"]),
        context=context,
        variant=row["topic"],
    )


def _follow_up(random: Random, options: TalkOptions, split: Split, context: tuple[Message, ...]) -> Draft:
    row = random.choice([row for row in talk_rows() if "follow" in row])
    fill = slot_filler(random, row)
    follow = row["follow"]
    question = random.choice(topic_wordings(follow["users"], split))
    if random.random() < options.untold:
        answer, check, thinking = UNTOLD, {"any": ["did not tell"]}, "They did not tell me."
    else:
        context = _exchange(random, row, fill) + context
        answer, check, thinking = fill(follow["replies"][0]), {"all": [fill(f"{{{row['slot']}}}")]}, follow["thinking"]
    return Draft(
        user=dress(random, question, openers=False),
        answer=answer,
        verifier="contains",
        verifier_args=check,
        thinking=fill(thinking),
        context=context,
        variant="untold" if answer == UNTOLD else "asked back",
    )


def _exchange(random: Random, row: dict[str, Any], fill: Callable[[str], str] = str) -> tuple[Message, Message]:
    """One earlier exchange, always of training lines."""
    user = fill(random.choice(topic_wordings(row["users"], "train")))
    return user_message(user), assistant_message(fill(random.choice(row["replies"])), fill(row["thinking"]))


SKILLS = (Skill("talk", draw_talk, TalkOptions),)

"""Who the model is: its name, its maker, what it can and cannot do. Names are options, wordings are hand-written.

Every topic has one answer, so that a very small model gives it consistently; about one wording in five of each topic
is held out for the test. Names in the questions (`Are you ChatGPT?`) are there because people ask that.

Limit: the answers are what we taught the model to say, no knowledge of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from luopan.corpus.skills.case import Draft, Skill, Split, check_share
from luopan.corpus.skills.wording import dress, topic_wordings
from luopan.corpus.skills.words import rows

ABILITIES = "add and subtract small numbers, compare and count, and chat a little"


@dataclass(frozen=True)
class IdentityOptions:
    """What the model is called, who made it (as in "made by ..."), and what it can do (as in "I can ...").

    `topics` limits the questions to some topics of `data/identity.jsonl`; empty means all. Name, maker and the like
    come up more often than the rest.
    """

    name: str = "Luopan"
    maker: str = "the Luopan project"
    abilities: str = ABILITIES
    topics: tuple[str, ...] = ()
    thinking: float = 0.2

    def __post_init__(self) -> None:
        check_share("thinking", self.thinking)
        for field in ("name", "maker", "abilities"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field} is empty")
        known = [row["topic"] for row in rows("identity.jsonl")]
        if not set(self.topics) <= set(known):
            raise ValueError(f"topics is {self.topics!r}; they are {', '.join(known)}")

    def fill(self, text: str) -> str:
        return text.format(name=self.name, maker=self.maker, abilities=self.abilities)


@cache
def identity_rows(topics: tuple[str, ...] = (), excluded: tuple[str, ...] = ()) -> tuple[dict[str, Any], ...]:
    """The rows of the chosen topics (all of them if none is named), not yet filled in."""
    wanted = [row for row in rows("identity.jsonl") if not topics or row["topic"] in topics]
    return tuple(row for row in wanted if row["topic"] not in excluded)


def contains_args(row: dict[str, Any], fill: Any) -> dict[str, Any]:
    """The arguments of the `contains` verifier that a row asks for."""
    return {kind: [fill(text) for text in row[kind]] for kind in ("all", "any") if kind in row}


def draw_identity(random: Random, options: IdentityOptions, split: Split) -> Draft:
    found = identity_rows(options.topics)
    row = random.choices(found, weights=[row.get("weight", 1) for row in found])[0]
    return Draft(
        user=dress(random, random.choice(topic_wordings(row["questions"], split))),
        answer=options.fill(row["answer"]),
        verifier="contains",
        verifier_args=contains_args(row, options.fill),
        thinking=row["thinking"],
        variant=row["topic"],
    )


SKILLS = (Skill("identity", draw_identity, IdentityOptions),)

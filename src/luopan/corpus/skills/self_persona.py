"""Another name by system prompt: a model that was taught who it is must still be who it is told to be.

The system prompt gives a name, often an occupation, sometimes a maker ("You are Ella, a tour guide in Oslo, made by
Baker Labs."), and the questions are those of `self_identity`. The right answer has the given name (or maker) and not
the model's own. Names, occupations, makers, wordings of the system prompt and of the question are all held out: a test
case has met none of them in training.

Limit: obeying is taught and tested for who the model is, not for a manner of speaking (see `persona` for that).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from luopan.corpus.skills.case import (
    Draft,
    Message,
    Skill,
    Split,
    assistant_message,
    check_share,
    system_message,
    user_message,
)
from luopan.corpus.skills.self_identity import SelfOptions, self_question
from luopan.corpus.skills.wording import topic_wordings
from luopan.corpus.skills.words import rows

FILE = "self_persona.jsonl"
ANSWERS = {
    "name": ("My name is {who}.", "I am called {who}.", "I'm {who}.", "You can call me {who}."),
    "who": ("I am {who}{what}.", "I'm {who}{what}.", "My name is {who}{and_what}."),
    "maker": ("I was made by {org}.", "{org} made me.", "I was built and trained by {org}."),
    "another name": ("No, I am {who}.", "No. My name is {who}.", "No, I'm {who}{what}."),
    "own name": ("No, I am {who}.", "No. My name is {who}.", "No, I'm {who}{what}."),
    "own maker": ("No, I was made by {org}.", "No, {org} made me."),
}
WEIGHTS = {"name": 3, "who": 3, "maker": 3, "another name": 2, "own name": 1, "own maker": 1}
OWN = {
    "own name": ("Are you {name}?", "You are {name}, right?", "Is your name {name}?", "Am I talking to {name}?",
                 "Hello {name}!", "So you must be {name}.", "Is this {name}?"),
    "own maker": ("Did {maker} make you?", "Are you made by {maker}?", "You come from {maker}, right?",
                  "Is {maker} your creator?", "Are you from {maker}?", "Were you built by {maker}?"),
}  # fmt: skip


@dataclass(frozen=True)
class SelfPersonaOptions:
    """`name` and `maker` of the model itself, which it must not give here; `multi_turn` as in `self_identity`."""

    name: str = "Luopan"
    maker: str = "the Luopan project"
    multi_turn: float = 0.2
    thinking: float = 0.0

    def __post_init__(self) -> None:
        check_share("multi_turn", self.multi_turn)
        if self.thinking:
            raise ValueError("self_persona has no thinking form; leave thinking out")
        for field in ("name", "maker"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field} is empty")


@dataclass(frozen=True)
class _Persona:
    who: str
    role: str
    org: str
    system: str

    @property
    def topics(self) -> list[str]:
        return [topic for topic in ANSWERS if self.org or "maker" not in topic]

    def answer(self, random: Random, topic: str) -> str:
        told = self.role and self.role in self.system
        answer = random.choice(ANSWERS[topic]).format(
            who=self.who,
            org=self.org,
            what=f", {self.role}" if told else "",
            and_what=f" and I am {self.role}" if told else "",
        )
        return _opened(answer)


def _part(name: str, split: Split) -> list[str]:
    parts: list[str] = next(row for row in rows(FILE) if row["part"] == name)[split]
    return parts


def draw_self_persona(random: Random, options: SelfPersonaOptions, split: Split) -> Draft:
    persona = _draw_persona(random, options, split)
    topic = random.choices(persona.topics, weights=[WEIGHTS[topic] for topic in persona.topics])[0]
    context: tuple[Message, ...] = (system_message(persona.system),)
    if random.random() < options.multi_turn:
        earlier = random.choice(persona.topics)
        question = _question(random, earlier, options, "train")
        context += (user_message(question), assistant_message(persona.answer(random, earlier)))
    return Draft(
        user=_question(random, topic, options, split),
        answer=persona.answer(random, topic),
        verifier="contains",
        verifier_args={
            "all": [persona.org if "maker" in topic else persona.who],
            "none": [options.name, options.maker],
        },
        context=context,
        variant=topic,
    )


def _draw_persona(random: Random, options: SelfPersonaOptions, split: Split) -> _Persona:
    """Somebody else than the model, and the system prompt that says so."""
    own = (options.name.casefold(), options.maker.casefold())
    who = random.choice([name for name in _part("who", split) if name.casefold() not in own])
    role = random.choice(_part("is", split))
    org = random.choice([name for name in _part("org", split) if name.casefold() not in own])
    made = random.random() < 0.4
    system = random.choice(_part("system with maker" if made else "system", split))
    return _Persona(who, role, org if made else "", _opened(system.format(who=who, **{"is": role}, org=org)))


def _opened(text: str) -> str:
    return text[0].upper() + text[1:]


def _question(random: Random, topic: str, options: SelfPersonaOptions, split: Split) -> str:
    if topic in OWN:
        return random.choice(topic_wordings(OWN[topic], split)).format(name=options.name, maker=options.maker)
    row: dict[str, Any] = next(row for row in rows("self_identity.jsonl") if row["topic"] == topic)
    own = SelfOptions(name=options.name, maker=options.maker)
    return self_question(row, random, own, split)


SKILLS = (Skill("self_persona", draw_self_persona, SelfPersonaOptions),)

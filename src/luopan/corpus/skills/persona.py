"""Personas: a system prompt says how to answer, and the answer can be checked for its mark.

Eight characters with a name and a mark ("Arr!" at the end, "Beep boop." at the start, "sir" within) and two styles
(capitals, small letters), over the questions of small talk and identity. A character's name replaces the model's own.
`named` cases give nothing but a name ("Your name is Ella."): the answer must come from the system prompt.
`negative` cases have a plain system prompt or none, and no mark may show. Graded twice: by the mark (`style`) and by
what is said (`content`); `Verdict.parts` keeps the two apart, for a small model often has the one without the other.

The split is by combination: a held-out (persona, wording) pair is never trained, though the persona is met with
other wordings and the wording with other personas. All wordings are training wordings of their family.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from luopan.corpus.skills.case import Draft, Skill, Split, check_share, system_message
from luopan.corpus.skills.identity import IdentityOptions, contains_args, identity_rows
from luopan.corpus.skills.talk import talk_rows
from luopan.corpus.skills.wording import topic_wordings
from luopan.corpus.skills.words import rows, words

PLAIN_SYSTEMS = ("", "You are a helpful assistant.", "Answer the user.", "Be kind and short.", "Help the user.")
NAMED_SYSTEMS = ("Your name is {who}.", "You are {who}.", "You are {who}, a helpful assistant.", "Call yourself {who}.")
NAME_TOPICS = ("name", "who")
NAME_SHARE = 0.25  # of a character's questions ask who it is
OWN_TOPICS = ("maker", "other", "can")  # they name the model or its maker: no question for somebody else


@dataclass(frozen=True)
class PersonaOptions:
    """`negative` and `named` are shares of the cases; `name` and `maker` as in `IdentityOptions`."""

    name: str = "Luopan"
    maker: str = "the Luopan project"
    negative: float = 0.2
    named: float = 0.15
    thinking: float = 0.0

    def __post_init__(self) -> None:
        check_share("negative", self.negative)
        check_share("named", self.named)
        if self.negative + self.named > 1:
            raise ValueError("negative and named add up to more than 1")
        if self.thinking:
            raise ValueError("persona has no thinking form; leave thinking out")


@dataclass(frozen=True)
class _Question:
    text: str
    answer: str
    check: dict[str, Any]


def apply_style(reply: str, style: dict[str, str]) -> str:
    """The reply with the mark of that style."""
    kind, value = style["kind"], style.get("value", "")
    if kind == "uppercase":
        return reply.upper()
    if kind == "lowercase":
        return reply.lower()
    if kind == "ends_with":
        return f"{reply} {value}"
    if kind == "starts_with":
        return f"{value} {reply}"
    return f"{reply[:-1]}, {value}{reply[-1]}"  # says: before the last full stop


def marks() -> list[dict[str, str]]:
    """Every style that a plain answer must not show (capitals included; a plain answer may be in small letters)."""
    return [row["style"] for row in rows("persona.jsonl") if row["style"]["kind"] != "lowercase"]


def draw_persona(random: Random, options: PersonaOptions, split: Split) -> Draft:
    identity = IdentityOptions(name=options.name, maker=options.maker)
    draw = random.random()
    if draw < options.negative:
        return _negative(random, identity)
    if draw < options.negative + options.named:
        return _named(random)
    return _in_character(random, identity)


def _in_character(random: Random, identity: IdentityOptions) -> Draft:
    persona = random.choice(rows("persona.jsonl"))
    who = persona.get("who")
    if who and random.random() < NAME_SHARE:
        question = _name_question(random, who, persona["is"])
    else:
        excluded = (*NAME_TOPICS, *OWN_TOPICS) if who else ()
        question = _question(random, identity, excluded)
    answer = apply_style(question.answer, persona["style"])
    style = [{"part": "style", "name": "style", "args": persona["style"]}]
    return _draft(persona["persona"], random.choice(persona["systems"]), question, answer, style)


def _named(random: Random) -> Draft:
    who = random.choice(words("names"))
    question = _name_question(random, who, "your helper")
    return _draft(f"named {who}", random.choice(NAMED_SYSTEMS).format(who=who), question, question.answer, [])


def _negative(random: Random, identity: IdentityOptions) -> Draft:
    question = _question(random, identity)
    unmarked = [{"part": "style", "name": "unmarked", "args": {"styles": marks()}}]
    return _draft("plain", random.choice(PLAIN_SYSTEMS), question, question.answer, unmarked)


def _draft(persona: str, system: str, question: _Question, answer: str, checks: list[dict[str, Any]]) -> Draft:
    return Draft(
        user=question.text,
        answer=answer,
        verifier="all_of",
        verifier_args={"checks": [*checks, {"part": "content", "name": "contains", "args": question.check}]},
        key=f"{persona}/{question.text}",
        context=(system_message(system),) if system else (),
        variant="named" if persona.startswith("named") else persona,
    )


def _name_question(random: Random, who: str, what: str) -> _Question:
    """Who are you, asked of somebody with a name of their own."""
    topic = random.choice(NAME_TOPICS)
    row = next(row for row in rows("identity.jsonl") if row["topic"] == topic)
    text = random.choice(topic_wordings(row["questions"], "train"))
    return _Question(text, f"My name is {who}." if topic == "name" else f"I am {who}, {what}.", {"all": [who]})


def _question(random: Random, identity: IdentityOptions, excluded: tuple[str, ...] = ()) -> _Question:
    """A question of identity or talk with its plain answer."""
    if random.random() < 0.5:
        row = random.choice(identity_rows(excluded=excluded))
        text = random.choice(topic_wordings(row["questions"], "train"))
        return _Question(text, identity.fill(row["answer"]), contains_args(row, identity.fill))
    row = random.choice(talk_rows(slots=False))
    text = random.choice(topic_wordings(row["users"], "train"))
    return _Question(text, random.choice(row["replies"]), contains_args(row, str))


SKILLS = (Skill("persona", draw_persona, PersonaOptions),)

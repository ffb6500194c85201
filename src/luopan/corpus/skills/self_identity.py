"""Who an assistant is, for teaching it to a model that knows much else already.

`self_identity` asks for name, maker, kind, abilities, limits and base model in several hundred wordings, direct and
indirect, in English and (`languages`) Chinese, takes the model for another one ("Are you ChatGPT?"), insists on it a
turn later, and speaks of it in the third person. About one wording in five of each topic is held out. Unlike
`identity`, whose one answer per topic suits a model of a million parameters, each topic has several full answers, and
an answer of a name, a maker or a kind must not name another model or company.

A share of the cases has a system prompt that gives no name: the model is itself there. Where one does give a name,
that name is the answer: see `self_persona`.

Limit: the answers are what we taught the model to say, no knowledge of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
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
from luopan.corpus.skills.wording import dress, topic_wordings
from luopan.corpus.skills.words import rows

FILE = "self_identity.jsonl"
LANGUAGES = ("en", "zh")
EVERY_RIVAL = "{rivals}"
RIVALS = (
    *("ChatGPT", "GPT-4", "OpenAI", "Claude", "Anthropic", "Gemini", "Google", "Llama", "Meta", "Siri", "Apple"),
    *("Alexa", "Amazon", "Copilot", "Microsoft", "DeepSeek", "Grok", "Mistral", "Qwen", "SmolLM", "Hugging Face"),
)
ABILITIES = "answer questions, explain things and help with writing"


@dataclass(frozen=True)
class SelfOptions:
    """What the model is: `name`, `maker` ("made by ..."), `kind` ("I am ..."), `abilities` ("I can ...") and, if it
    was fine-tuned from another model that it may name, `base`.

    `topics` limits the questions to some topics, `languages` to some languages. `plain_system`: share of the cases with
    a system prompt that gives no name. `multi_turn`: share that comes after another exchange of this kind.
    """

    name: str = "Luopan"
    maker: str = "the Luopan project"
    kind: str = "a small language model"
    abilities: str = ABILITIES
    base: str = ""
    topics: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    plain_system: float = 0.25
    multi_turn: float = 0.2
    thinking: float = 0.0

    def __post_init__(self) -> None:
        check_share("plain_system", self.plain_system)
        check_share("multi_turn", self.multi_turn)
        if self.thinking:
            raise ValueError("self_identity has no thinking form; leave thinking out")
        for field in ("name", "maker", "kind", "abilities"):
            if not getattr(self, field).strip():
                raise ValueError(f"{field} is empty")
        if not self.languages or not set(self.languages) <= set(LANGUAGES):
            raise ValueError(f"languages is {self.languages!r}; they are {', '.join(LANGUAGES)}")
        known = [row["topic"] for row in rows(FILE)]
        if not set(self.topics) <= set(known):
            raise ValueError(f"topics is {self.topics!r}; they are {', '.join(known)}")
        if not self_rows(self):
            raise ValueError("no topic is left with these languages, topics and base")

    def fill(self, text: str) -> str:
        return text.format(
            name=self.name, maker=self.maker, kind=self.kind, abilities=self.abilities, base=self.base, rivals=""
        )


@cache
def self_rows(options: SelfOptions) -> tuple[dict[str, Any], ...]:
    """The topics that these options leave, not yet filled in."""
    return tuple(
        row
        for row in rows(FILE)
        if row.get("language", "en") in options.languages
        and (not options.topics or row["topic"] in options.topics)
        and ("needs" not in row or getattr(options, row["needs"]))
    )


def check_of(row: dict[str, Any], options: SelfOptions) -> dict[str, Any]:
    """The arguments of the `contains` verifier for an answer to this topic."""
    own = " ".join((options.name, options.maker, options.kind)).casefold()
    rivals = [rival for rival in RIVALS if rival.casefold() not in own]
    filled: dict[str, Any] = {}
    for kind in ("all", "any", "none"):
        if kind in row:
            phrases = [rivals if text == EVERY_RIVAL else [options.fill(text)] for text in row[kind]]
            filled[kind] = [phrase for group in phrases for phrase in group]
    return filled


def self_question(row: dict[str, Any], random: Random, options: SelfOptions, split: Split) -> str:
    """One of the topic's wordings, filled in."""
    wording = options.fill(random.choice(topic_wordings(row["questions"], split)))
    return wording if row.get("language") == "zh" else dress(random, wording)


def draw_self(random: Random, options: SelfOptions, split: Split) -> Draft:
    found = self_rows(options)
    row = random.choices(found, weights=[row.get("weight", 1) for row in found])[0]
    context: tuple[Message, ...] = ()
    if random.random() < options.plain_system:
        context = (system_message(random.choice(plain_systems(split))),)
    if row.get("turns") or random.random() < options.multi_turn:
        context += _exchange(random, options, insisted=bool(row.get("turns")))
    return Draft(
        user=self_question(row, random, options, split),
        answer=options.fill(random.choice(row["answers"])),
        verifier="contains",
        verifier_args=check_of(row, options),
        context=context,
        variant=row["topic"],
    )


def plain_systems(split: Split) -> tuple[str, ...]:
    """System prompts that give no name."""
    return tuple(next(row for row in rows("self_persona.jsonl") if row["part"] == "plain system")[split])


def _exchange(random: Random, options: SelfOptions, *, insisted: bool) -> tuple[Message, Message]:
    """An earlier question and answer of training wordings; before somebody insists, who the model is."""
    if insisted:
        found = [row for row in rows(FILE) if row["topic"] in ("name", "who")]
    else:
        found = [row for row in self_rows(options) if not row.get("turns")] or [rows(FILE)[0]]
    row = random.choice(found)
    answer = options.fill(random.choice(row["answers"]))
    return user_message(self_question(row, random, options, "train")), assistant_message(answer)


SKILLS = (Skill("self_identity", draw_self, SelfOptions),)

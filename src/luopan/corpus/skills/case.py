"""What a skill case is, and how cases are drawn: the ground under every skill family.

A `Case` is one question with a known answer: the messages up to the answer, the reference answer, and the name and
arguments of the verifier (`luopan.evals.verifiers`) that grades another answer. This module knows no skill; a skill
family hands in a `Skill`, whose `draw` makes one `Draft`, and `draw_cases` turns drafts into cases of one split.

Train and test never meet because the split is a property of the question: a hash of the draft's `key` (for addition
the two numbers, in any order and any wording) says which side it is on, whatever `n` and `seed` are. Hand-written
families hold out wordings instead, by rank of their hash within a topic (`wording.split_wordings`), so that every
topic is on both sides.

Limits: a small question space (one-digit addition has 55 pairs) gives a small test set; test cases are distinct, so
fewer than `n` may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from random import Random
from typing import Any, Literal

from luopan.errors import DataError

Split = Literal["train", "test"]
Message = dict[str, str]

TEST_SHARE = 0.1  # of the question space


@dataclass(frozen=True, slots=True)
class Case:
    """One question, its reference answer and how to grade another answer.

    `messages` end with the user's turn; `reference` is the assistant message (`content`, and `reasoning_content` if
    `enable_thinking`); `variant` names the difficulty or topic within the skill ("3 digits", "name").
    """

    skill: str
    messages: tuple[Message, ...]
    reference: Message
    verifier: str
    verifier_args: dict[str, Any]
    enable_thinking: bool = False
    variant: str = ""

    @property
    def answer(self) -> str:
        """The reference answer without its thinking."""
        return self.reference["content"]

    @property
    def question(self) -> str:
        """The last user message."""
        return self.messages[-1]["content"]

    def conversation(self) -> list[Message]:
        """The whole conversation, reference included: what supervised fine-tuning trains on."""
        return [*self.messages, self.reference]

    def row(self) -> dict[str, Any]:
        """The case as a chat row in the usual fields, for a .jsonl file."""
        return {
            "messages": self.conversation(),
            "chat_template_kwargs": {"enable_thinking": self.enable_thinking},
            "skill": self.skill,
            "variant": self.variant,
            "verifier": self.verifier,
            "verifier_args": self.verifier_args,
        }


@dataclass(frozen=True, slots=True)
class Draft:
    """One drawn question before it becomes a case.

    `key` decides the split; None says that the family drew from the right side already. `thinking` is the working,
    or None where there is none, which makes the case one without thinking. `context` are the messages before `user`;
    what they think is dropped where the case does not think.
    """

    user: str
    answer: str
    verifier: str
    verifier_args: dict[str, Any]
    key: str | None = None
    thinking: str | None = None
    context: tuple[Message, ...] = ()
    variant: str = ""


@dataclass(frozen=True)
class Skill:
    """A skill family: `draw(random, options, split)` makes one draft.

    `options` is a frozen dataclass of defaults, checked in its `__post_init__`; every one has `thinking`, the share
    of cases in the thinking form.
    """

    name: str
    draw: Callable[[Random, Any, Split], Draft]
    options: type


def split_of(key: str) -> Split:
    """The side a question is on, from a hash of its key: about one in ten is held out."""
    value = int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big")
    return "test" if value < TEST_SHARE * 2**32 else "train"


def user_message(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant_message(content: str, thinking: str | None = None) -> Message:
    if thinking is None:
        return {"role": "assistant", "content": content}
    return {"role": "assistant", "content": content, "reasoning_content": thinking}


def system_message(content: str) -> Message:
    return {"role": "system", "content": content}


def without_thinking(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "reasoning_content"}


def build_options(skill: Skill, values: Mapping[str, Any]) -> Any:
    """The skill's options dataclass from keyword values; an unknown name or a bad value is a DataError."""
    known = [option.name for option in fields(skill.options)]
    for name in values:
        if name not in known:
            raise DataError(
                f"skill {skill.name!r} has no option {name!r}",
                where="skill options",
                hint=f"it has: {', '.join(known)}",
            )
    frozen = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return skill.options(**frozen)
    except (ValueError, TypeError) as error:
        raise DataError(f"skill {skill.name!r}: {error}", where="skill options") from error


def draw_cases(skill: Skill, n: int, seed: int, split: Split, options: Any) -> list[Case]:
    """`n` cases of one split, the same for the same arguments; a longer list begins with the shorter one.

    Train questions may repeat, as they do in any training set drawn from a small space; test cases are distinct, and
    fewer than `n` come back when the space holds no more.
    """
    random = Random(f"{skill.name}/{split}/{seed}")
    share = options.thinking
    cases: list[Case] = []
    seen: set[tuple[str, ...]] = set()
    tries_left = 60 * n + 1000
    while len(cases) < n and tries_left:
        tries_left -= 1
        draft = skill.draw(random, options, split)
        thinks = random.random() < share and draft.thinking is not None
        if draft.key is not None and split_of(f"{skill.name}/{draft.key}") != split:
            continue
        if split == "test":
            asked = (str(thinks), draft.user, *(message["content"] for message in draft.context))
            if asked in seen:
                continue
            seen.add(asked)
        cases.append(_case(skill.name, draft, thinks))
    if not cases and n > 0:
        raise DataError(f"skill {skill.name!r} found no {split} question with these options", where="skill options")
    return cases


def _case(name: str, draft: Draft, thinks: bool) -> Case:
    context = draft.context if thinks else tuple(without_thinking(message) for message in draft.context)
    return Case(
        skill=name,
        messages=(*context, user_message(draft.user)),
        reference=assistant_message(draft.answer, draft.thinking if thinks else None),
        verifier=draft.verifier,
        verifier_args=draft.verifier_args,
        enable_thinking=thinks,
        variant=draft.variant,
    )


def check_share(name: str, value: float) -> None:
    """A share of cases must lie in 0..1; `True` and `False` mean all and none."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}; it is a share between 0 and 1")

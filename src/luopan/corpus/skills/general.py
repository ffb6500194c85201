"""General prompts: short requests on many subjects, for which no right answer is kept.

They are for what must not change while something else is taught: their answers come from the model itself before
training (`luopan.stages.replay`). About one prompt in five of each group is held out, by its wording. Some groups look
like questions of who the model is and are none ("Who made the first telephone?", "My name is Peter. What is my name?").

A share of the prompts comes with a system prompt, so that a model is also kept as it is where there is one.
Limits: 305 prompts, one turn each, in plain English.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib import resources
from random import Random

from luopan.corpus.skills.case import Message, Split, system_message, user_message
from luopan.corpus.skills.wording import topic_wordings
from luopan.errors import DataError

FILE = "general.txt"
SYSTEMS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "You are a friendly teacher who explains things to children.",
    "You are a pirate. End each answer with Arr!",
    "You are a poet.",
    "Answer with one word if you can.",
    "You are an expert who answers with care.",
    "Always answer as a list.",
)
SYSTEM_SHARE = 0.3


@dataclass(frozen=True)
class GeneralPrompt:
    """What a model is asked, and the group it is from."""

    messages: tuple[Message, ...]
    group: str

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]


@cache
def prompt_groups() -> dict[str, tuple[str, ...]]:
    """The prompts of every group, in the order of the file."""
    groups: dict[str, list[str]] = {}
    lines = (resources.files("luopan.corpus.skills") / "data" / FILE).read_text(encoding="utf-8").splitlines()
    group = ""
    for line in lines:
        if line.startswith("## "):
            group = line.removeprefix("## ")
        elif line.strip() and not line.startswith("#"):
            groups.setdefault(group, []).append(line)
    return {name: tuple(prompts) for name, prompts in groups.items()}


def general_prompts(n: int, seed: int, split: Split) -> list[GeneralPrompt]:
    """`n` different prompts of one side, spread over the groups; all there are where there are fewer.

    DataError for an unknown side.
    """
    if split not in ("train", "test"):
        raise DataError(f"split is {split!r}; it is 'train' or 'test'", where="general prompts")
    random = Random(f"general/{split}/{seed}")
    queues = [
        [(group, text) for text in random.sample(chosen, len(chosen))]
        for group, prompts in prompt_groups().items()
        if (chosen := topic_wordings(prompts, split))
    ]
    spread = [queue[at] for at in range(max(map(len, queues))) for queue in queues if at < len(queue)]
    return [_prompt(group, text) for group, text in spread[:n]]


def _prompt(group: str, text: str) -> GeneralPrompt:
    """The prompt, with its system prompt if it is one of those that have one: a property of its wording."""
    value = int.from_bytes(blake2b(f"system/{text}".encode(), digest_size=4).digest(), "big")
    share = value / 2**32
    if share >= SYSTEM_SHARE:
        return GeneralPrompt((user_message(text),), group)
    system = SYSTEMS[int(share / SYSTEM_SHARE * len(SYSTEMS))]
    return GeneralPrompt((system_message(system), user_message(text)), group)

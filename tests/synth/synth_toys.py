"""A teacher that answers by rule, behind the fake server's door or in this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from luopan.synth.config import Dedup, Sampling
from luopan.synth.harvest import Harvest, Origin
from luopan.synth.speaker import Ask, Heard, Reply, Request

SAMPLING = Sampling(temperature=0.5, max_tokens=64)
WORDS = [
    "river", "stone", "copper", "violin", "harbour", "lantern", "meadow",
    "compass", "orchard", "glacier", "saddle", "pepper",
]  # fmt: skip


def harvest(dedup: Dedup | None = None, **more: Any) -> Harvest:
    return Harvest(Origin("toy", 1, 7, "luopan 0"), dedup, **more)


def said(text: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    """A server's answer."""
    return {
        "choices": [{"message": {"role": "assistant", "content": text, **more}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3},
    }


def instructions(seed: int, count: int) -> str:
    """A numbered list that is another one for another seed."""
    some = [WORDS[(seed // 7**at) % len(WORDS)] for at in range(count + 2)]
    return "\n".join(
        f"{at + 1}. Tell {some[at]} about {some[at + 1]} and {seed % 997} {some[at + 2]}" for at in range(count)
    )


def teacher(body: dict[str, Any], number: int) -> tuple[int, Any]:
    """Lists where a list is asked for, else an answer that names the question."""
    asked = body["messages"][-1]["content"]
    if found := re.search(r"Write (\d+) ", asked):
        return 200, said(instructions(body["seed"], int(found[1])))
    return 200, said(f"An answer to: {asked}")


@dataclass
class Scripted:
    """A speaker whose replies are a function of the request; `dies` after so many of them."""

    replies: Any
    name: str = "toy"
    together: int = 4
    dies: int | None = None
    asked: list[Request] = field(default_factory=list)

    def request(self, ask: Ask) -> Request:
        return {
            "model": self.name,
            "messages": [dict(m) for m in ask.messages],
            "seed": ask.seed,
            "think": ask.thinking,
        }

    def answer(self, requests: Sequence[Request], heard: Heard) -> None:
        for place, request in enumerate(requests):
            if self.dies is not None and len(self.asked) >= self.dies:
                raise KeyboardInterrupt
            self.asked.append(request)
            found = self.replies(request)
            heard(place, found if isinstance(found, Reply) else Reply(found, None, True, 5, 2))

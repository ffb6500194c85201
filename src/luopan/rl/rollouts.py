"""Groups of answers to prompts, graded: what the policy did, and what it was worth.

A rollout's log-probabilities are those of the distribution it was sampled from; the feed asserts before the first
update that the trainer computes the same ones. A verdict of None (the grader failed) takes the answer out of its
group instead of counting as wrong. Groups whose rewards are all equal teach nothing: they are counted and, where asked
for, replaced by another draw of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """A question to the policy: its tokens and how an answer is graded (text -> score in [0, 1], or None).

    `question` and `answer` are for people to read, `messages` for graders that read the conversation. `key` is the
    prompt's place among the training prompts. `verifier` and `args` say what `grade` asks where it is a verifier of
    `luopan.evals`, so that many answers can be graded together.
    """

    input_ids: tuple[int, ...]
    grade: Callable[[str], float | None]
    name: str = ""
    thinking: bool = False
    question: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()
    answer: str = ""
    key: int = 0
    verifier: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """One sampled answer; with `finish_reason` "stop" its `tokens` end with the stop token, which is trained too."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    reward: float | None
    parts: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """The answers to one prompt, with their advantages (0 where the answer could not be graded)."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]
    token_advantages: tuple[tuple[float, ...], ...] = ()
    """By answer and token, where tokens of an answer differ; then `advantages` are their means."""

    @property
    def dead(self) -> bool:
        """Whether all graded rewards are equal, so that nothing is learnt from it."""
        rewards = {r.reward for r in self.rollouts if r.reward is not None}
        return len(rewards) < 2

    def record(self, step: int) -> dict[str, Any]:
        """A line for the rollout log."""
        return {
            "step": step,
            "task": self.prompt.name,
            "question": self.prompt.question,
            "thinking": self.prompt.thinking,
            "policy": step,
            "reference": self.prompt.answer,
            "prompt_ids": list(self.prompt.input_ids),
            "answers": [
                {
                    "text": r.text,
                    "reward": r.reward,
                    "parts": r.parts,
                    "advantage": round(a, 4),
                    "tokens": list(r.tokens),
                    "logprobs": [round(value, 5) for value in r.logprobs],
                    "finish_reason": r.finish_reason,
                }
                for r, a in zip(self.rollouts, self.advantages)
            ],
        }

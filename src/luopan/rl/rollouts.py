"""Groups of answers to prompts, graded: what the policy did, and what it was worth.

A rollout's log-probabilities are those of the distribution it was sampled from; the feed asserts before the first
update that the trainer computes the same ones. A verdict of None (the grader failed) takes the answer out of its
group instead of counting as wrong. Groups whose rewards are all equal teach nothing: they are counted and, where asked
for, replaced by another draw of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luopan.tokens.batch import Doc


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
    """One sampled answer; with `finish_reason` "stop" its `tokens` end with the stop token, which is trained too.

    logprobs: those that it was sampled with; where it was scored again (`rl.correction`), the trainer's, and then
    sampled_logprobs are those.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    reward: float | None
    parts: dict[str, float | None] = field(default_factory=dict)
    sampled_logprobs: tuple[float, ...] = ()


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

    def record(self, step: int, version: int | None = None) -> dict[str, Any]:
        """A line for the rollout log. version: the update whose weights sampled, `step` if not said."""
        return {
            "step": step,
            "task": self.prompt.name,
            "question": self.prompt.question,
            "thinking": self.prompt.thinking,
            "policy": step if version is None else version,
            "reference": self.prompt.answer,
            "prompt_ids": list(self.prompt.input_ids),
            "answers": [
                {
                    "text": r.text,
                    "reward": r.reward,
                    "parts": r.parts,
                    "advantage": round(a, 4),
                    "tokens": list(r.tokens),
                    "logprobs": [round(value, 5) for value in r.sampled_logprobs or r.logprobs],
                    "finish_reason": r.finish_reason,
                }
                for r, a in zip(self.rollouts, self.advantages)
            ],
        }


def rollout_doc(prompt: Prompt, rollout: Rollout, advantage: float, tokens: Sequence[float] = ()) -> Doc:
    """Prompt and answer as one document: the answer's tokens are trained, its stop token included. `tokens`: what each
    is credited with, where they differ."""
    before = len(prompt.input_ids)
    more = {"sampled_logprobs": rollout.sampled_logprobs, "advantages": tokens}
    columns = {"old_logprobs": rollout.logprobs, **{name: column for name, column in more.items() if column}}
    return Doc(
        input_ids=[*prompt.input_ids, *rollout.tokens],
        labels=[-100] * before + list(rollout.tokens),
        per_token={name: [0.0] * before + list(column) for name, column in columns.items()},
        fields={"advantage": advantage},
    )

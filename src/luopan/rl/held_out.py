"""Accuracy on prompts that are never trained on, sampled as in training: the mean over k answers to each (avg@k).

A greedy answer is one of many; what training raises is the mean over what the policy says. The standard error is that
of the mean over prompts: answers to one prompt are no independent cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from luopan.artifacts import atomic_write_json
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion
from luopan.rl.rewards import Answer, Part, Rewards, Score, asked
from luopan.rl.rollouts import Prompt
from luopan.rl.verifying import VERIFIER, ByVerifier

Decode = Callable[[Sequence[int], Sequence[int]], str]
Generate = Callable[..., list[Completion]]


@dataclass(frozen=True)
class Exam:
    """Held-out prompts and how they are answered: `each` answers to each, graded as in training."""

    prompts: Sequence[Prompt]
    generate: Generate
    decode: Decode
    rewards: Rewards | None
    sampling: SamplingParams
    each: int
    seed: int

    def take(self) -> dict[str, Any]:
        """What came of it, as JSON: per prompt, in order, the mean score of the verifier (`sampled`) and the mean
        reward (`rewards`), None where no answer could be graded; `parts` the same for each other part of the reward;
        `tasks` names each prompt's."""
        if not self.prompts:
            return {"sampled": [], "rewards": [], "parts": {}, "tasks": []}
        asked_for = [prompt for prompt in self.prompts for _ in range(self.each)]
        ids = [prompt.input_ids for prompt in asked_for]
        done = self.generate(ids, self.sampling, seed=self.seed)
        answers = [
            Answer(prompt, self.decode(one.tokens, prompt.input_ids), tuple(one.tokens), one.finish_reason)
            for prompt, one in zip(asked_for, done, strict=True)
        ]
        scores, rewards, parts = self._graded(answers)
        return {
            "sampled": self._means(scores),
            "rewards": self._means(rewards),
            "parts": {name: self._means(column) for name, column in parts.items()},
            "tasks": [prompt.name for prompt in self.prompts],
            "each": self.each,
            "length": fmean(len(answer.tokens) for answer in answers),
            "stop_rate": fmean(float(answer.ended) for answer in answers),
            "ungraded": sum(score is None for score in scores),
        }

    def _graded(self, answers: Sequence[Answer]) -> tuple[Sequence[Score], Sequence[Score], dict[str, list[Score]]]:
        """Scores of the verifiers, rewards, and what the other parts say; verifiers are asked once."""
        judge = Part(VERIFIER, 1.0, ByVerifier())
        if self.rewards is None:
            return asked(judge, answers, {}), [None] * len(answers), {}
        verdicts = self.rewards(answers)
        names = [part.name for part in self.rewards.parts]
        others = {name: [parts[name] for parts in verdicts.parts] for name in names if name != VERIFIER}
        if VERIFIER in names:
            return [parts[VERIFIER] for parts in verdicts.parts], verdicts.rewards, others
        return asked(judge, answers, {}), verdicts.rewards, others

    def _means(self, values: Sequence[Score]) -> list[Score]:
        groups = [values[i : i + self.each] for i in range(0, len(values), self.each)]
        return [fmean(known) if (known := [v for v in group if v is not None]) else None for group in groups]


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """Figures for a line of metrics: accuracy and reward with their standard errors, length, stop rate."""
    figures: dict[str, float] = {}
    for key, name in (("sampled", "accuracy"), ("rewards", "reward")):
        known = [value for value in result.get(key, []) if value is not None]
        if known:
            figures[f"held_out/{name}"] = fmean(known)
            figures[f"held_out/{name}_stderr"] = stdev(known) / len(known) ** 0.5 if len(known) > 1 else 0.0
    for name in ("length", "stop_rate"):
        if name in result:
            figures[f"held_out/{name}"] = float(result[name])
    return figures


def keep_exam(folder: Path, step: int, result: Mapping[str, Any]) -> None:
    """Beside the rollouts: `held_out-000060.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(folder / f"held_out-{step:06d}.json", dict(result))

"""Rejection sampling: of k answers to a prompt the right ones are kept, and taught as if somebody had written them.

A generation is a *round*: the policy answers, what earned at least `min_reward` and ended by itself is kept, at most
`per_prompt` different answers of a prompt, the best first and among equals the one drawn first; the updates of the
round are next-token training on these (RFT: Yuan et al. 2023, arXiv:2308.01825; over several rounds expert iteration:
Anthony et al. 2017, arXiv:1705.08439, STaR: Zelikman et al. 2022, arXiv:2203.14465). The next round's answers come from
the weights that this one made. The tokens that were sampled are trained as they are, the stop token included.

What was kept is written to `kept-000000.jsonl`, a file per round that chat data can be read from again: `messages`, and
where each row comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_text
from luopan.errors import TrainingError
from luopan.rl.feed import Collected
from luopan.rl.groups import Graded
from luopan.rl.log import write_log
from luopan.rl.online_pairs import Drawn
from luopan.rl.rollouts import Group, Prompt, Rollout
from luopan.tokens.batch import Doc
from luopan.train.ranks import rank

Kept = tuple[Prompt, Rollout]


@dataclass(frozen=True)
class KeepSettings:
    """`least`: answers that a round must keep, because its updates and ranks read one each."""

    min_reward: float
    per_prompt: int
    least: int = 1


@dataclass
class BestOfCollector:
    """See the module; a `rl.feed.Collector`. `model`: the name of what samples, for the rows that are kept."""

    answers: Drawn
    settings: KeepSettings
    folder: Path
    model: str = ""

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """Sample, grade, choose and log the answers of a round; one document per kept answer."""
        rounds, figures = self.answers(generation)
        asked = [one for part in rounds for one in part]
        kept = [(graded[0], one) for graded in asked for one in right_answers(graded[1], self.settings)]
        self._log(step, rounds, kept)
        self._check(asked, kept, generation)
        if rank() == 0:
            rows = (json.dumps(self._row(one, generation, step), ensure_ascii=False) + "\n" for one in kept)
            atomic_write_text(self.folder / f"kept-{generation:06d}.jsonl", "".join(rows))
        solved = len({id(prompt) for prompt, _ in kept})
        figures = {**figures, "kept": float(len(kept)), "solved": solved / len(asked)}
        figures["kept_length"] = sum(len(one.tokens) for _, one in kept) / len(kept)
        return Collected([[kept_doc(*one)] for one in kept], figures)

    def _check(self, asked: Sequence[Graded], kept: Sequence[Kept], generation: int) -> None:
        """TrainingError, with what to do, where a round has too little to teach."""
        if len(kept) >= self.settings.least:
            return
        answers = [one for _, some in asked for one in some]
        best = max((one.reward for one in answers if one.reward is not None), default=None)
        ended = sum(one.finish_reason == "stop" for one in answers)
        raise TrainingError(
            f"round {generation + 1} keeps {len(kept)} of {len(answers)} answers to {len(asked)} prompts, and its "
            f"updates need {self.settings.least}; the best earned {'nothing' if best is None else f'{best:g}'} "
            f"(min_reward is {self.settings.min_reward:g}), {ended} ended by themselves",
            hint="Ask for more answers (num_generations, prompts_per_step) or easier tasks, lower min_reward, "
            "fine-tune the model on the format first, or cut a round into fewer updates (steps_per_generation).",
        )

    def _row(self, kept: Kept, generation: int, step: int) -> dict[str, Any]:
        prompt, one = kept
        asked = [dict(message) for message in prompt.messages] or [{"role": "user", "content": prompt.question}]
        return {
            "messages": [*asked, {"role": "assistant", "content": one.text}],
            "reward": one.reward,
            "parts": one.parts,
            "task": prompt.name,
            "prompt": prompt.key,
            "thinking": prompt.thinking,
            "round": generation,
            "step": step,
            "model": self.model,
        }

    def _log(self, step: int, rounds: Sequence[Sequence[Graded]], kept: Sequence[Kept]) -> None:
        """Every answer; `advantage` is 1 of those that are kept, else 0."""
        chosen = {id(one) for _, one in kept}
        lines = []
        for number, part in enumerate(rounds):
            for prompt, some in part:
                marks = tuple(float(id(one) in chosen) for one in some)
                lines.append({**Group(prompt, tuple(some), marks).record(step), "round": number})
        write_log(self.folder, step, lines)


def right_answers(rollouts: Sequence[Rollout], settings: KeepSettings) -> list[Rollout]:
    """The different answers to a prompt that are good enough, the best first, at most `per_prompt`."""
    good = [
        one
        for one in rollouts
        if one.reward is not None and one.reward >= settings.min_reward and one.finish_reason == "stop" and one.tokens
    ]
    found: dict[str, Rollout] = {}
    for one in sorted(good, key=lambda one: -float(one.reward or 0.0)):  # stable: drawn first, kept first
        found.setdefault(" ".join(one.text.split()), one)
    return list(found.values())[: settings.per_prompt]


def kept_doc(prompt: Prompt, rollout: Rollout) -> Doc:
    """Prompt and answer, the answer trained with its stop token; the log-probabilities are for the check alone."""
    before = len(prompt.input_ids)
    return Doc(
        input_ids=[*prompt.input_ids, *rollout.tokens],
        labels=[-100] * before + list(rollout.tokens),
        per_token={"old_logprobs": [0.0] * before + list(rollout.logprobs)},
    )

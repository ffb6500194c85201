"""The on-policy feed: at every step, answers sampled from the current weights become the training batch.

What a step trains on is a function of (seed, step, weights) and of nothing else, so a resumed run samples the same
answers again and ends with the same weights. Prompts and answers are packed like documents; the index from tokens to
answers is `document_ids`, and masks come from where the prompt ends, never from token values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from luopan.artifacts import atomic_write_text
from luopan.errors import TrainingError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion, Engine
from luopan.objectives.config import AdvantageScale
from luopan.rl.rollouts import Group, Prompt, Rollout, advantages
from luopan.tokens.batch import Batch, Doc, collate
from luopan.tokens.packing import best_fit_decreasing

Reward = Callable[[Prompt, str, Completion], tuple[float | None, dict[str, float | None]]]


@dataclass(frozen=True)
class RolloutSettings:
    """How many answers to how many prompts, and how they are packed. Lengths in tokens."""

    prompts_per_step: int
    num_generations: int
    sampling: SamplingParams
    max_length: int
    micro_batches: int
    scale_rewards: AdvantageScale
    resample_rounds: int
    seed: int


@dataclass
class RolloutFeed:
    """A `train.loop.Feed` that samples. `rank` and `world_size` share out the prompts of a step."""

    engine: Engine
    decode: Callable[[Sequence[int]], str]
    prompts: Sequence[Prompt]
    reward: Reward
    settings: RolloutSettings
    folder: Path
    pad_id: int
    rank: int = 0
    world_size: int = 1
    figures: dict[str, float] = field(default_factory=dict)
    """Of the last step sampled: mean reward, its parts, lengths, dead groups, stop rate, sampling speed."""

    def micro_batches(self, step: int) -> Sequence[Batch]:
        """Sample, grade, log and pack the answers of `step`."""
        start = time.perf_counter()
        groups, dead = self.collect(step)
        seconds = time.perf_counter() - start
        self._log(step, groups)
        live = [group for group in groups if not group.dead]
        self.figures = self._figures(groups, dead, seconds)
        # With nothing to learn from, the step still needs a loss of weight > 0: advantages are all zero then.
        return self._pack(live or groups)

    def collect(self, step: int) -> tuple[list[Group], int]:
        """The groups of a step and how many dead ones were met; a dead group is replaced while rounds are left."""
        wanted = self.settings.prompts_per_step // self.world_size
        kept: list[Group] = []
        spare: list[Group] = []
        dead = 0
        for round_ in range(self.settings.resample_rounds + 1):
            groups = self._sample(self._draw(step, round_, wanted - len(kept)), step, round_)
            dead += sum(group.dead for group in groups)
            kept += [group for group in groups if not group.dead]
            spare += [group for group in groups if group.dead]
            if len(kept) == wanted:
                break
        return kept + spare[: wanted - len(kept)], dead

    def _draw(self, step: int, round_: int, count: int) -> list[Prompt]:
        """`count` distinct prompts, a function of (seed, step, round, rank)."""
        generator = np.random.default_rng([self.settings.seed, step, round_, self.rank])
        chosen = generator.choice(len(self.prompts), size=min(count, len(self.prompts)), replace=False)
        return [self.prompts[int(i)] for i in chosen]

    def _sample(self, prompts: Sequence[Prompt], step: int, round_: int) -> list[Group]:
        each = self.settings.num_generations
        asked = [prompt.input_ids for prompt in prompts for _ in range(each)]
        seed = int(np.random.SeedSequence([self.settings.seed, step, round_, self.rank]).generate_state(1)[0])
        completions = self.engine.generate(asked, self.settings.sampling, seed=seed)
        answers = [
            [self._grade(prompt, completion) for completion in completions[i * each : (i + 1) * each]]
            for i, prompt in enumerate(prompts)
        ]
        if not any(rollout.reward is not None for group in answers for rollout in group):
            raise TrainingError(
                f"step {step}: not one of {len(asked)} answers could be graded",
                hint="try the task's verifier on one of its own reference answers",
            )
        values = advantages(answers, self.settings.scale_rewards)
        return [Group(p, tuple(rollouts), a) for p, rollouts, a in zip(prompts, answers, values)]

    def _grade(self, prompt: Prompt, completion: Completion) -> Rollout:
        text = self.decode(completion.tokens)
        reward, parts = self.reward(prompt, text, completion)
        return Rollout(
            tuple(completion.tokens), tuple(completion.logprobs), text, completion.finish_reason, reward, parts
        )

    def _pack(self, groups: Sequence[Group]) -> list[Batch]:
        docs = [
            rollout_doc(group.prompt, rollout, advantage)
            for group in groups
            for rollout, advantage in zip(group.rollouts, group.advantages)
            if rollout.reward is not None and rollout.tokens
        ]
        bins = best_fit_decreasing([len(doc.input_ids) for doc in docs], self.settings.max_length)
        rows = [[docs[i] for i in chosen] for chosen in bins]
        per = -(-len(rows) // self.settings.micro_batches)
        parts = [rows[i : i + per] for i in range(0, len(rows), per)]
        return [collate(part, self.settings.max_length, self.pad_id) for part in parts]

    def _log(self, step: int, groups: Sequence[Group]) -> None:
        """One file per step, so that a resumed run writes over its own lines and never doubles them."""
        lines = "".join(json.dumps(group.record(step), ensure_ascii=False) + "\n" for group in groups)
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.folder / f"step-{step:06d}.rank{self.rank}.jsonl", lines)

    def _figures(self, groups: Sequence[Group], dead: int, seconds: float) -> dict[str, float]:
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        graded = [rollout.reward for rollout in rollouts if rollout.reward is not None]
        tokens = sum(len(rollout.tokens) for rollout in rollouts)
        figures = {
            "reward": float(np.mean(graded)),
            "reward_std": float(np.std(graded)),
            "completion_length": tokens / len(rollouts),
            "stop_rate": float(np.mean([rollout.finish_reason == "stop" for rollout in rollouts])),
            "dead_groups": float(dead),
            "ungraded": float(len(rollouts) - len(graded)),
            "sampled_tokens_per_second": tokens / seconds,
        }
        for name in {name for rollout in rollouts for name in rollout.parts}:
            values = [v for rollout in rollouts if (v := rollout.parts.get(name)) is not None]
            figures[f"reward/{name}"] = float(np.mean(values)) if values else float("nan")
        return figures


def rollout_doc(prompt: Prompt, rollout: Rollout, advantage: float) -> Doc:
    """Prompt and answer as one document: the answer's tokens are trained, its stop token included."""
    before = len(prompt.input_ids)
    return Doc(
        input_ids=[*prompt.input_ids, *rollout.tokens],
        labels=[-100] * before + list(rollout.tokens),
        per_token={"old_logprobs": [0.0] * before + list(rollout.logprobs)},
        fields={"advantage": advantage},
    )

"""Groups of answers for GRPO and its kin: prompts drawn, answered, graded, compared within their groups, written down.

What is sampled is a function of (seed, generation, weights) and of nothing else, so a resumed run samples the same
answers again. Of several processes each samples and grades its share, and all learn what came of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from luopan.errors import TrainingError
from luopan.generate.config import SamplingParams
from luopan.generate.engine import Completion
from luopan.objectives.config import Advantage, AdvantageScale, KlEstimator
from luopan.rl.correction import Scorer, rescored, with_rescored
from luopan.rl.credit import Credit, Penalties, advantages, token_advantages
from luopan.rl.curriculum import PassRates
from luopan.rl.curriculum import figures as curriculum_figures
from luopan.rl.feed import Collected
from luopan.rl.log import write_log
from luopan.rl.rewards import Answer, Rewards
from luopan.rl.rollouts import Group, Prompt, Rollout, rollout_doc
from luopan.rl.stale import StalePolicy
from luopan.rl.verifying import VERIFIER
from luopan.tokens.batch import Doc
from luopan.train.ranks import gather_objects, share, together

DEAD = "dead_generations"  # in the carry: how many in a row
Graded = tuple[Prompt, list[Rollout]]
Decode = Callable[[Sequence[int], Sequence[int]], str]
"""The text of an answer's tokens, by the tokens of its prompt."""


class Sampler(Protocol):
    """What is needed of the engine."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int | None = None,
        request_ids: Sequence[int] | None = None,
    ) -> list[Completion]: ...


@dataclass(frozen=True)
class RolloutSettings:
    """How many answers to how many prompts. Lengths in tokens."""

    prompts_per_step: int
    num_generations: int
    sampling: SamplingParams
    scale_rewards: AdvantageScale
    resample_rounds: int
    seed: int
    advantage: Advantage = "group"
    reward_beta: float = 0.0
    """Weight of the KL to the reference in the reward."""
    kl_estimator: KlEstimator = "k1"
    dead_generations: int = 20
    """In a row, after which a TrainingError says what to do."""

    @property
    def credit(self) -> Credit:
        """How answers are compared."""
        return Credit(self.advantage, self.scale_rewards, self.reward_beta, self.kl_estimator)


@dataclass
class GroupCollector:
    """See the module; a `rl.feed.Collector`."""

    engine: Sampler
    decode: Decode
    prompts: Sequence[Prompt]
    rewards: Rewards
    settings: RolloutSettings
    folder: Path
    reference: Scorer | None = None
    """The reference's log-probabilities of documents, aligned with their tokens; where the loss asks for them."""
    curriculum: PassRates | None = None
    trainer: Scorer | None = None
    """The policy's own log-probabilities of documents, where those of what sampled are to be put right by a weight."""
    stale: StalePolicy | None = None
    """What samples, where it may be older than the policy; `engine` is over its weights."""

    def collect(self, generation: int, step: int, carry: Mapping[str, float]) -> Collected:
        """Sample, grade and log the answers of a generation; one document each."""
        version = self.stale.refresh(generation) if self.stale is not None else step
        drawn, figures = self.drawn(generation, carry)
        chosen = self._chosen(drawn)
        if self.trainer is not None:
            sampled = chosen
            chosen, gap = rescored(sampled, self.trainer)
            drawn = with_rescored(drawn, sampled, chosen)
            figures |= gap
        if self.stale is not None:
            figures["policy_lag"] = float(step - version)
        penalties, strayed = self._penalties(chosen)
        groups = with_advantages(chosen, self.settings.credit, penalties)
        self._log(step, drawn, groups, version)
        live = [group for group in groups if not group.dead] if self.settings.credit.by_group else groups
        # With nothing to learn from, the step still needs a loss of weight > 0: advantages are all zero then.
        docs = [
            rollout_doc(group.prompt, rollout, advantage, tokens)
            for group in live or groups
            for rollout, advantage, tokens in zip(group.rollouts, group.advantages, group.token_advantages)
            if rollout.reward is not None and rollout.tokens
        ]
        # Figures are those of the first draw, all of it: what replaced its dead groups is a choice of mixed ones.
        # A KL that is in the reward brings no dead group to life, as it would not beside live ones.
        alive = bool(live) and any(any(group.advantages) or any(map(any, group.token_advantages)) for group in live)
        figures |= {**strayed, "idle": float(not alive)}
        kept = self._kept(drawn, carry, alive, figures)
        return Collected([[doc] for doc in self._referenced(docs)], figures, kept)

    def drawn(
        self, generation: int, carry: Mapping[str, float] | None = None
    ) -> tuple[list[list[Graded]], dict[str, float]]:
        """What a generation has sampled, graded, the same on every rank, and the figures of it: the groups of its own
        prompts, then those of prompts that were drawn because groups were dead, round by round."""
        start = time.perf_counter()
        rounds = self._rounds(generation, carry or {})
        return rounds, self._figures(rounds, time.perf_counter() - start)

    def sampled(
        self, generation: int, carry: Mapping[str, float]
    ) -> tuple[list[Graded], dict[str, float], dict[str, float]]:
        """For who compares no groups: the graded answers to a generation's own prompts, figures over them, and what the
        next generation is told. Nothing is logged."""
        assert not self.settings.resample_rounds, "dead groups are replaced where groups are compared"
        rounds, figures = self.drawn(generation, carry)
        kept = self._kept(rounds, carry, True, figures)
        return rounds[0], {name: value for name, value in figures.items() if not name.endswith("_groups")}, kept

    def _penalties(self, chosen: Sequence[Graded]) -> tuple[Penalties | None, dict[str, float]]:
        """What the KL takes from the reward at each token of each answer, and the KL as a figure; where it is there."""
        credit = self.settings.credit
        if not credit.beta:
            return None, {}
        assert self.reference is not None
        rollouts = [(prompt, rollout) for prompt, group in chosen for rollout in group]
        columns = iter(self.reference([rollout_doc(prompt, r, 0.0) for prompt, r in rollouts if r.tokens]))
        taken = [
            credit.penalties(torch.tensor(r.logprobs), torch.tensor(next(columns)[len(prompt.input_ids) :]))
            if r.tokens
            else torch.zeros(0)
            for prompt, r in rollouts
        ]
        parts = iter(taken)
        figures = {"kl": float(torch.cat(taken).mean()) / credit.beta}
        return [[next(parts) for _ in group] for _, group in chosen], figures

    def _kept(
        self, drawn: Sequence[Sequence[Graded]], carry: Mapping[str, float], alive: bool, figures: dict[str, float]
    ) -> dict[str, float]:
        """What the next generation is told: how many in a row taught nothing, and how often each prompt was solved."""
        kept: dict[str, float] = {}
        if not alive:
            kept[DEAD] = carry.get(DEAD, 0.0) + 1
            check_dead(int(kept[DEAD]), self.settings.dead_generations, [group for part in drawn for group in part])
        if self.curriculum is not None:
            visits = [visit for part in drawn for group in part if (visit := solved(group)) is not None]
            kept |= self.curriculum.after(carry, visits)
            figures |= curriculum_figures(kept)
        return kept

    def _referenced(self, docs: list[Doc]) -> list[Doc]:
        if self.reference is None or self.settings.credit.beta:
            return docs
        columns = self.reference(docs)
        return [
            replace(doc, per_token={**doc.per_token, "reference_logprobs": column})
            for doc, column in zip(docs, columns, strict=True)
        ]

    def _rounds(self, step: int, carry: Mapping[str, float]) -> list[list[Graded]]:
        """What was sampled for a step: the prompts of the step, then replacements for dead groups, round by round."""
        wanted = min(self.settings.prompts_per_step, len(self.prompts))
        rounds = [self._sample(self._draw(step, 0, wanted, carry), step, 0)]
        for round_ in range(1, self.settings.resample_rounds + 1):
            missing = wanted - sum(not dead(group) for part in rounds for group in part)
            if missing <= 0:
                break
            rounds.append(self._sample(self._draw(step, round_, missing, carry), step, round_))
        rollouts = [rollout for part in rounds for _, group in part for rollout in group]
        if all(rollout.reward is None for rollout in rollouts):
            raise self._nothing_graded(step, rollouts)
        return rounds

    def _nothing_graded(self, step: int, rollouts: Sequence[Rollout]) -> TrainingError:
        masked = sum(self._masked(rollout) for rollout in rollouts)
        if masked == len(rollouts):
            return TrainingError(
                f"step {step}: not one of {len(rollouts)} answers ends, and truncation: mask leaves them all out",
                hint="Raise max_completion_length, or use truncation: penalise until the policy ends its answers.",
            )
        why = "; ".join(f"{name}: {words}" for name, words in self.rewards.failed.items())
        return TrainingError(
            f"step {step}: not one of {len(rollouts) - masked} answers could be graded",
            hint=why or "Try the task's verifier on one of its own reference answers.",
        )

    def _masked(self, rollout: Rollout) -> bool:
        """Whether it is left out because it does not end."""
        return self.rewards.truncation == "mask" and rollout.finish_reason != "stop"

    def _chosen(self, rounds: Sequence[Sequence[Graded]]) -> list[Graded]:
        """The groups of the step: live ones first, dead ones where there are not enough, ungraded ones last."""
        everything = [group for part in rounds for group in part]
        ordered = sorted(everything, key=lambda group: (dead(group), all(one.reward is None for one in group[1])))
        return ordered[: len(rounds[0])]

    def _draw(self, step: int, round_: int, count: int, carry: Mapping[str, float]) -> list[Prompt]:
        """`count` distinct prompts, a function of (seed, step, round), and of the carry with a curriculum."""
        generator = np.random.default_rng([self.settings.seed, step, round_, 0])
        total = len(self.prompts)
        chances = None if self.curriculum is None else self.curriculum.chances(carry, total)
        chosen = generator.choice(total, size=min(count, total), replace=False, p=chances)
        return [self.prompts[int(i)] for i in chosen]

    def _sample(self, prompts: Sequence[Prompt], step: int, round_: int) -> list[Graded]:
        """Answers to all prompts; this rank samples and grades its share. What an answer draws is keyed by its number
        among all, so it does not matter which rank it falls to."""
        each = self.settings.num_generations
        mine = share(range(len(prompts)))
        asked = [prompts[number].input_ids for number in mine for _ in range(each)]
        keys = [number * each + answer for number in mine for answer in range(each)]
        seed = int(np.random.SeedSequence([self.settings.seed, step, round_, 0]).generate_state(1)[0])
        completions = self.engine.generate(asked, self.settings.sampling, seed=seed, request_ids=keys) if asked else []
        answered = [prompts[key // each] for key in keys]
        graded = together(lambda: graded_rollouts(self.rewards, self.decode, answered, completions))
        everything = [rollout for part in gather_objects(graded) for rollout in part]
        return [(prompt, everything[i * each : (i + 1) * each]) for i, prompt in enumerate(prompts)]

    def _log(self, step: int, rounds: Sequence[Sequence[Graded]], trained: Sequence[Group], version: int) -> None:
        """All that was sampled; `round` is 0 for the generation's own prompts, and the advantages of a group that is
        not trained on are 0."""
        known = {id(group.rollouts[0]): group for group in trained if group.rollouts}
        records = []
        for number, part in enumerate(rounds):
            for prompt, rollouts in part:
                group = known.get(id(rollouts[0])) or Group(prompt, tuple(rollouts), (0.0,) * len(rollouts))
                records.append({**group.record(step, version), "round": number})
        write_log(self.folder, step, records)

    def _figures(self, rounds: Sequence[Sequence[Graded]], seconds: float) -> dict[str, float]:
        first = [rollout for _, group in rounds[0] for rollout in group]
        graded = [rollout.reward for rollout in first if rollout.reward is not None]
        tokens = sum(len(rollout.tokens) for part in rounds for _, group in part for rollout in group)
        figures = {
            "reward": float(np.mean(graded)) if graded else float("nan"),
            "reward_std": float(np.std(graded)) if graded else float("nan"),
            "completion_length": float(np.mean([len(rollout.tokens) for rollout in first])),
            "stop_rate": float(np.mean([rollout.finish_reason == "stop" for rollout in first])),
            "dead_groups": float(sum(dead(group) for group in rounds[0])),
            "replaced_groups": float(sum(not dead(group) for part in rounds[1:] for group in part)),
            "ungraded": float(sum(one.reward is None and not self._masked(one) for one in first)),
            "sampled_tokens_per_second": tokens / seconds,
        }
        if self.rewards.truncation == "mask":
            figures["masked"] = float(sum(map(self._masked, first)))
        for name in dict.fromkeys(name for rollout in first for name in rollout.parts):
            values = [v for rollout in first if (v := rollout.parts.get(name)) is not None]
            figures[f"reward/{name}"] = float(np.mean(values)) if values else float("nan")
        return figures


def solved(group: Graded) -> tuple[int, float] | None:
    """(key of the prompt, share of its answers that the verifier accepts), None where it graded none."""
    prompt, rollouts = group
    scores = [score for one in rollouts if (score := one.parts.get(VERIFIER)) is not None]
    return (prompt.key, float(np.clip(np.mean(scores), 0, 1))) if scores else None


def check_dead(count: int, most: int, groups: Sequence[Graded]) -> None:
    """TrainingError where `most` generations in a row taught nothing and it is not because all is solved."""
    shares = [share for group in groups if (visit := solved(group)) is not None for _, share in [visit]]
    if count < most or (shares and min(shares) >= 1):
        return
    rewards = [one.reward for _, rollouts in groups for one in rollouts if one.reward is not None]
    endless = float(np.mean([one.finish_reason != "stop" for _, rollouts in groups for one in rollouts]))
    ways = "easier prompts, a better model to begin with, a reward that also gives part of the marks"
    if endless > 0.5:
        ways = f"a larger max_completion_length ({endless:.0%} of the answers do not end), {ways}"
    raise TrainingError(
        f"in {count} generations in a row all answers to each prompt earned the same (the last: "
        f"{np.mean(rewards):.3g} on average), so nothing is learnt",
        hint=f"Try {ways}, more answers per prompt (num_generations), or a higher temperature.",
    )


def dead(graded: Graded) -> bool:
    """Whether all graded answers to a prompt earned the same, so that nothing is learnt from it."""
    return len({rollout.reward for rollout in graded[1] if rollout.reward is not None}) < 2


def graded_rollouts(
    rewards: Rewards, decode: Decode, prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[Rollout]:
    """Completions with what they earn, all graded in one call; `prompts` has one for each."""
    answers = [
        Answer(prompt, decode(done.tokens, prompt.input_ids), tuple(done.tokens), done.finish_reason)
        for prompt, done in zip(prompts, completions, strict=True)
    ]
    verdicts = rewards(answers)
    return [
        Rollout(answer.tokens, tuple(done.logprobs), answer.text, answer.finish_reason, reward, parts)
        for answer, done, reward, parts in zip(answers, completions, verdicts.rewards, verdicts.parts, strict=True)
    ]


def with_advantages(graded: Sequence[Graded], credit: Credit, penalties: Penalties | None = None) -> list[Group]:
    """The step's groups with their advantages, worked out once over all of them."""
    answers = [rollouts for _, rollouts in graded]
    values = advantages(answers, credit, penalties)
    tokens: list[list[tuple[float, ...]]] = [[()] * len(part) for part in answers]
    if credit.by_token:
        tokens = token_advantages(answers, credit, penalties)
    return [Group(prompt, tuple(rollouts), a, tuple(t)) for (prompt, rollouts), a, t in zip(graded, values, tokens)]

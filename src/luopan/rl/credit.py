"""What an answer, or each of its tokens, is credited with: rewards, less the KL where it is in the reward, compared as
the algorithm says (`luopan.objectives.advantages`). Worked out once over all answers of a generation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luopan.objectives.advantages import (
    baseline_whitened,
    group_advantages,
    leave_one_out,
    reinforce_pp,
    returns_to_go,
)
from luopan.objectives.config import Advantage, AdvantageScale, KlEstimator
from luopan.objectives.kl import divergence
from luopan.rl.rollouts import Rollout

Answers = Sequence[Sequence[Rollout]]
Penalties = Sequence[Sequence[Tensor]]
"""For each answer of each group, by its tokens [T], what is taken from the reward."""


@dataclass(frozen=True)
class Credit:
    """How answers are compared. `beta` is the weight of the KL in the reward: 0 where there is none."""

    advantage: Advantage = "group"
    scale_rewards: AdvantageScale = "group"
    beta: float = 0.0
    kl_estimator: KlEstimator = "k1"

    @property
    def by_token(self) -> bool:
        """Whether the tokens of an answer may differ in what they are credited with."""
        return self.advantage == "reinforce_pp"

    @property
    def by_group(self) -> bool:
        """Whether answers are compared with those to the same prompt, so that equal ones teach nothing."""
        return self.advantage != "reinforce_pp"

    def penalties(self, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
        """[T] for an answer: beta times the estimate of the KL at each of its tokens."""
        return self.beta * divergence(logprobs, reference_logprobs, self.kl_estimator)


def advantages(groups: Answers, credit: Credit, penalties: Penalties | None = None) -> list[tuple[float, ...]]:
    """For G groups of K answers what each answer is credited with; 0 for one that could not be graded, which moves no
    mean. Where tokens differ (`token_advantages`), the mean over them."""
    if credit.by_token:
        return [
            tuple(sum(tokens) / len(tokens) if tokens else 0.0 for tokens in group)
            for group in token_advantages(groups, credit, penalties)
        ]
    rewards = torch.tensor([[0.0 if r.reward is None else r.reward for r in group] for group in groups])  # [G, K]
    valid = torch.tensor([[r.reward is not None for r in group] for group in groups])
    if penalties is not None:
        rewards = rewards - torch.stack([torch.stack([part.sum() for part in group]) for group in penalties])
    if credit.advantage == "rloo":
        values = leave_one_out(rewards, valid)
    elif credit.advantage == "reinforce_pp_baseline":
        lengths = torch.tensor([[len(r.tokens) for r in group] for group in groups])
        values = baseline_whitened(rewards, lengths, valid)
    else:
        values = group_advantages(rewards, credit.scale_rewards, valid)
    return [tuple(row) for row in values.tolist()]


def token_advantages(
    groups: Answers, credit: Credit, penalties: Penalties | None = None
) -> list[list[tuple[float, ...]]]:
    """REINFORCE++: for each answer of each group what its tokens are credited with; 0 where it could not be graded."""
    assert credit.by_token
    answers = [rollout for group in groups for rollout in group]
    none = [torch.zeros(len(rollout.tokens)) for rollout in answers]
    taken = none if penalties is None else [part for group in penalties for part in group]
    returns = [
        returns_to_go(rollout.reward, part)
        for rollout, part in zip(answers, taken, strict=True)
        if rollout.reward is not None
    ]
    parts = iter(reinforce_pp(torch.cat(returns)).split([len(part) for part in returns]) if returns else ())
    each = iter(
        tuple(zeros.tolist()) if rollout.reward is None else tuple(next(parts).tolist())
        for rollout, zeros in zip(answers, none, strict=True)
    )
    return [[next(each) for _ in group] for group in groups]

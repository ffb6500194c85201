"""Group-relative policy optimisation: advantages from groups of answers to one prompt, and the clipped objective.

Per token, with ratio w = pi/pi_old, advantage A, d = log pi_ref - log pi:

  loss = -min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) + beta (exp(d) - d - 1)

The loss types differ in what a token's loss is divided by:

  grpo     mean over a sequence's tokens, then over sequences   Shao et al. 2024, arXiv:2402.03300
  dapo     all tokens of the step                               Yu et al. 2025, arXiv:2503.14476
  bnpo     the same as dapo here: elsewhere it is the mean over each micro-batch's own tokens, which lets gradient
           accumulation change the loss
  dr_grpo  sequences of the step * max_completion_length        Liu et al. 2025, arXiv:2503.20783
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, Metric, mean_metric
from luopan.objectives.config import AdvantageScale, PolicyLossType, check_policy, check_scale
from luopan.objectives.logprobs import sum_by_document

# Keeps a group whose rewards are nearly equal from being blown up; the value that TRL uses.
STD_EPSILON = 1e-4


def grpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    reference_logprobs: Tensor | None = None,
    loss_type: PolicyLossType = "dapo",
    max_completion_length: int | None = None,
    entropies: Tensor | None = None,
) -> LossTerm:
    """The clipped objective over N completion tokens of `num_sequences` sequences, as a sum and its count.

    logprobs [N] with gradient; old_logprobs, advantages, reference_logprobs, entropies [N] without; sequence [N] int64:
    the sequence, 0..num_sequences-1, that each token belongs to. epsilon_high None: the same as epsilon.
    reference_logprobs are needed with beta > 0 and refused with beta 0. max_completion_length is read by dr_grpo only.
    entropies are reported only. RecipeError for a combination that cannot work.
    """
    check_policy(loss_type, epsilon, epsilon_high, beta, max_completion_length)
    assert logprobs.ndim == 1 and logprobs.shape == old_logprobs.shape == advantages.shape == sequence.shape
    if (reference_logprobs is None) == (beta > 0):
        raise RecipeError(
            "beta above 0 needs the reference model's log-probabilities"
            if beta > 0
            else "reference log-probabilities have no effect with beta 0",
            hint="set beta above 0 and give a reference, or neither",
        )
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = torch.exp(logprobs - old_logprobs.detach())  # [N]
    advantages = advantages.detach()
    losses = -torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + high) * advantages)
    metrics = _metrics(ratio.detach(), advantages, epsilon, high)
    if reference_logprobs is not None:
        difference = reference_logprobs.detach() - logprobs
        divergence = torch.exp(difference) - difference - 1
        metrics["kl"] = mean_metric(divergence)
        losses = losses + beta * divergence
    if entropies is not None:
        metrics["entropy"] = mean_metric(entropies)
    if loss_type == "grpo":
        lengths = sum_by_document(torch.ones_like(losses), sequence, num_sequences)  # [S]
        losses = losses / lengths[sequence]
    weights = {"grpo": num_sequences, "dr_grpo": num_sequences * (max_completion_length or 0)}
    weight = losses.new_tensor(float(weights.get(loss_type, losses.numel())))
    return LossTerm(total=losses.sum(), weight=weight, metrics=metrics)


def group_advantages(rewards: Tensor, scale: AdvantageScale = "group", valid: Tensor | None = None) -> Tensor:
    """How much better than its group each answer is: [G, K] for rewards [G, K] of K answers to each of G prompts.

    (reward - group mean) / (std + 1e-4), std with Bessel's correction of the group ("group"), of all rewards
    ("batch"), or no division ("none", Dr. GRPO). Rows that could not be scored are left out of mean and std and get 0:
    those where `valid` [G, K] is False, or, without `valid`, those that are NaN. A group with a single scored answer
    gets 0. ValueError if a valid reward is not a number.
    """
    check_scale(scale)
    assert rewards.ndim == 2, rewards.shape
    if valid is None:
        valid = ~rewards.isnan()
    elif not bool(rewards[valid].isfinite().all()):
        raise ValueError("a reward marked valid is not a finite number")
    clean = torch.where(valid, rewards, 0.0).float()
    mean = clean.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)  # [G, 1]
    centred = torch.where(valid, clean - mean, 0.0)
    if scale == "none":
        return centred
    if scale == "group":
        variance = centred.square().sum(1, keepdim=True) / (valid.sum(1, keepdim=True) - 1).clamp(min=1)
    else:
        scored = clean[valid]
        variance = scored.var() if scored.numel() > 1 else scored.new_zeros(())
    return centred / (variance.sqrt() + STD_EPSILON)


def _metrics(ratio: Tensor, advantages: Tensor, low: float, high: float) -> dict[str, Metric]:
    """Shares of tokens whose gradient the clip has cut, and how far the policy is from the one that sampled."""
    clipped_low = (ratio < 1 - low) & (advantages < 0)
    clipped_high = (ratio > 1 + high) & (advantages > 0)
    one = ratio.new_tensor(1.0)
    return {
        "clip_ratio/low": mean_metric(clipped_low),
        "clip_ratio/high": mean_metric(clipped_high),
        "clip_ratio": mean_metric(clipped_low | clipped_high),
        "ratio": mean_metric(ratio),
        "ratio_max": (ratio.amax() if ratio.numel() else one, one),
    }

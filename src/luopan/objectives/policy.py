"""The policy losses over sampled tokens: GRPO and its kin, CISPO, and an answer as a single action.

Per token, with ratio w = pi/pi_old and advantage A (`luopan.objectives.advantages`):

  clipped  -min(min(w, delta) A, clip(w, 1 - epsilon, 1 + epsilon_high) A)   delta: Prime Intellect 2025,
                                                                             arXiv:2505.07291; without it there is none
  cispo    -stop(min(w, epsilon_high)) A log pi       MiniMax 2025, arXiv:2506.13585: no token loses its gradient

times the weight that corrects for another sampler, plus beta times an estimate of KL(pi || pi_ref)
(`luopan.objectives.kl`). w is the token's own, or its sequence's (`luopan.objectives.importance`).

The loss types differ in what a token's loss is divided by:

  grpo     mean over a sequence's tokens, then over sequences   Shao et al. 2024, arXiv:2402.03300
  dapo     all tokens of the step                               Yu et al. 2025, arXiv:2503.14476; cispo likewise
  bnpo     the same as dapo here: elsewhere it is the mean over each micro-batch's own tokens, which lets gradient
           accumulation change the loss
  dr_grpo  sequences of the step * max_completion_length        Liu et al. 2025, arXiv:2503.20783
  rloo     sequences of the step; w of the whole sequence       Ahmadian et al. 2024, arXiv:2402.14740
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, Metric, mean_metric
from luopan.objectives.config import (
    DEFAULT_EPSILON,
    KlEstimator,
    PolicyLossType,
    RatioLevel,
    check_policy,
    default_correction,
)
from luopan.objectives.importance import importance_ratio, token_counts
from luopan.objectives.kl import divergence


def grpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    epsilon: float | None = None,
    epsilon_high: float | None = None,
    delta: float | None = None,
    importance_sampling_level: RatioLevel = "token",
    beta: float = 0.0,
    kl_estimator: KlEstimator = "k3",
    use_bias_correction_kl: bool | None = None,
    reference_logprobs: Tensor | None = None,
    importance_weights: Tensor | None = None,
    loss_type: PolicyLossType = "dapo",
    max_completion_length: int | None = None,
    entropies: Tensor | None = None,
) -> LossTerm:
    """The policy loss over N completion tokens of `num_sequences` sequences, as a sum and its count.

    logprobs [N] with gradient; old_logprobs, advantages, reference_logprobs, importance_weights, entropies [N] without;
    sequence [N] int64: the sequence, 0..num_sequences-1, that each token belongs to. epsilon None: 0.2; epsilon_high
    None: the same as epsilon. reference_logprobs are needed with beta > 0 and refused with beta 0;
    use_bias_correction_kl None: where the estimator needs it. importance_weights: `importance.truncated_weights`; they
    do not weigh the KL. max_completion_length is read by dr_grpo only. entropies are reported only. RecipeError for a
    combination that cannot work.
    """
    check_policy(
        loss_type,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        delta=delta,
        importance_sampling_level=importance_sampling_level,
        beta=beta,
        kl_estimator=kl_estimator,
        use_bias_correction_kl=use_bias_correction_kl,
        max_completion_length=max_completion_length,
    )
    assert logprobs.ndim == 1 and logprobs.shape == old_logprobs.shape == advantages.shape == sequence.shape
    _check_reference(reference_logprobs, beta)
    log_ratio, lengths = logprobs - old_logprobs.detach(), token_counts(sequence, num_sequences)[sequence]  # [N]
    level = "product" if loss_type == "rloo" else importance_sampling_level
    ratio = importance_ratio(log_ratio, sequence, num_sequences, level)  # [N]
    if loss_type == "cispo":
        losses, cut = _capped(ratio, advantages.detach(), logprobs, epsilon_high)
    else:
        losses, cut = _clipped(ratio, advantages.detach(), epsilon, epsilon_high, delta)
    # A ratio of a whole sequence is counted once, not for each of its tokens.
    metrics = _metrics(
        ratio.detach(), log_ratio.detach(), cut, torch.ones_like(lengths) if level == "token" else 1 / lengths
    )
    if importance_weights is not None:
        losses = losses * importance_weights.detach()
        metrics["importance_weight"] = mean_metric(importance_weights)
    if reference_logprobs is not None:
        kl = divergence(logprobs, reference_logprobs, kl_estimator)
        metrics["kl"] = mean_metric(kl)
        corrected = default_correction(kl_estimator) if use_bias_correction_kl is None else use_bias_correction_kl
        losses = losses + beta * (kl * torch.exp(log_ratio) if corrected else kl)
    if entropies is not None:
        metrics["entropy"] = mean_metric(entropies)
    if loss_type in ("grpo", "rloo"):
        losses = losses / lengths
    weight = _count(loss_type, losses.numel(), num_sequences, max_completion_length)
    return LossTerm(total=losses.sum(), weight=losses.new_tensor(float(weight)), metrics=metrics)


def _clipped(
    ratio: Tensor, advantages: Tensor, epsilon: float | None, epsilon_high: float | None, delta: float | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The clipped objective's losses [N], and where the gradient was cut below and above."""
    low = DEFAULT_EPSILON if epsilon is None else epsilon
    high = low if epsilon_high is None else epsilon_high
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    losses = -torch.min(bounded * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    above = (ratio > 1 + high) & (advantages > 0)
    if delta is not None:
        above = above | ((ratio > delta) & (advantages < 0))
    return losses, ((ratio < 1 - low) & (advantages < 0), above)


def _capped(
    ratio: Tensor, advantages: Tensor, logprobs: Tensor, cap: float | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """CISPO's losses [N], and where the weight was cut: above only."""
    assert cap is not None, "checked"
    ratio = ratio.detach()
    return -ratio.clamp(max=cap) * advantages * logprobs, (torch.zeros_like(ratio, dtype=torch.bool), ratio > cap)


def _count(loss_type: PolicyLossType, tokens: int, sequences: int, max_completion_length: int | None) -> int:
    if loss_type == "dr_grpo":
        return sequences * (max_completion_length or 0)
    return sequences if loss_type in ("grpo", "rloo") else tokens


def _check_reference(reference_logprobs: Tensor | None, beta: float) -> None:
    if (reference_logprobs is None) == (beta > 0):
        raise RecipeError(
            "beta above 0 needs the reference model's log-probabilities"
            if beta > 0
            else "reference log-probabilities have no effect with beta 0",
            hint="set beta above 0 and give a reference, or neither",
        )


def _metrics(ratio: Tensor, log_ratio: Tensor, cut: tuple[Tensor, Tensor], each: Tensor) -> dict[str, Metric]:
    """Shares of ratios that were cut, and how far the policy is from the one that sampled; each ratio once."""
    count, one = each.sum(), ratio.new_tensor(1.0)
    low, high = cut

    def mean(values: Tensor) -> Metric:
        return (values.float() * each).sum(), count

    return {
        "clip_ratio/low": mean(low),
        "clip_ratio/high": mean(high),
        "clip_ratio": mean(low | high),
        "ratio": mean(ratio),
        "ratio_max": (ratio.amax() if ratio.numel() else one, one),
        # Of the policy that sampled from the one that is updated: tokens come from the former, hence the signs.
        "kl_sampled": mean_metric(torch.exp(log_ratio) - log_ratio - 1),
    }

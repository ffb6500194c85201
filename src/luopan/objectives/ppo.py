"""Proximal policy optimisation: the clipped losses of the policy and of the value model, over the same tokens.

Per token, with ratio w = pi/pi_old, advantage A, value v (that the sampling weights gave: v_old) and return R:

  policy   -min(w A, clip(w, 1 - cliprange, 1 + cliprange) A)               Schulman et al. 2017, arXiv:1707.06347
  value    1/2 max((v - R)^2, (clip(v, v_old -+ cliprange_value) - R)^2)    as in Stiennon et al. 2020, arXiv:2009.01325
  loss     policy + vf_coef * value

Advantages and returns are made where the answers are sampled (`luopan.rl.gae`), over the whole generation, so nothing
here depends on how it is cut into micro-batches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, Metric, mean_metric


def ppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    *,
    cliprange: float = 0.2,
    cliprange_value: float | None = 0.2,
    vf_coef: float = 0.1,
    entropies: Tensor | None = None,
) -> LossTerm:
    """Both losses over N tokens, as a sum; weight N.

    logprobs, values [N] with gradient; the others [N] without. `cliprange_value` None: values are not clipped.
    `entropies` are reported only. RecipeError for a setting that cannot work.
    """
    if not vf_coef > 0:
        raise RecipeError(
            f"vf_coef is {vf_coef}, it must be above 0", hint="0.1 is usual; without it nothing is valued"
        )
    policy = clipped_policy(logprobs, old_logprobs, advantages, cliprange=cliprange)
    value = clipped_value(values, old_values, returns, cliprange_value=cliprange_value)
    metrics = {**policy.metrics, **value.metrics}
    if entropies is not None:
        metrics["entropy"] = mean_metric(entropies)
    return LossTerm(policy.total + vf_coef * value.total, policy.weight, metrics)


def clipped_policy(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, cliprange: float = 0.2) -> LossTerm:
    """The policy's loss over N tokens; weight N. `clip_ratio`: the share of tokens whose gradient the clip has cut."""
    if not 0 < cliprange < 1:
        raise RecipeError(f"cliprange is {cliprange}, it must be between 0 and 1", hint="0.2 is usual")
    assert logprobs.ndim == 1 and logprobs.shape == old_logprobs.shape == advantages.shape
    ratio = torch.exp(logprobs - old_logprobs.detach())
    advantages = advantages.detach()
    losses = -torch.min(ratio * advantages, ratio.clamp(1 - cliprange, 1 + cliprange) * advantages)
    seen = ratio.detach()
    cut = ((seen < 1 - cliprange) & (advantages < 0)) | ((seen > 1 + cliprange) & (advantages > 0))
    one = seen.new_tensor(1.0)
    metrics: dict[str, Metric] = {
        "policy_loss": mean_metric(losses),
        "clip_ratio": mean_metric(cut),
        "ratio": mean_metric(seen),
        "ratio_max": (seen.amax() if seen.numel() else one, one),
    }
    return LossTerm(losses.sum(), losses.new_tensor(float(losses.numel())), metrics)


def clipped_value(
    values: Tensor, old_values: Tensor, returns: Tensor, *, cliprange_value: float | None = 0.2
) -> LossTerm:
    """The value model's loss over N tokens; weight N.

    With the clip a value that has moved further than `cliprange_value` from the old one, towards the return, gets no
    more gradient in this generation; one that has moved away from it is pulled back all the same.
    """
    if cliprange_value is not None and not cliprange_value > 0:
        raise RecipeError(
            f"cliprange_value is {cliprange_value}, it must be above 0", hint="null leaves values unclipped"
        )
    assert values.ndim == 1 and values.shape == old_values.shape == returns.shape
    values, old_values, returns = values.float(), old_values.detach().float(), returns.detach().float()
    plain = (values - returns).square()
    losses, cut = plain, torch.zeros_like(plain, dtype=torch.bool)
    if cliprange_value is not None:
        near = torch.minimum(torch.maximum(values, old_values - cliprange_value), old_values + cliprange_value)
        clipped = (near - returns).square()
        losses, cut = torch.max(plain, clipped), clipped > plain
    metrics = {"value_loss": mean_metric(0.5 * losses), "value_clip_ratio": mean_metric(cut)}
    return LossTerm(0.5 * losses.sum(), losses.new_tensor(float(losses.numel())), metrics)

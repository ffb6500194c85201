"""How much better an answer was than could be expected: what multiplies the log-probabilities of its tokens.

Of rewards r [G, K] of K answers to each of G prompts, with the mean m and the deviation s (Bessel's correction):

  group                  (r - m_group) / (s + 1e-4), s of the group, of the batch, or no division
                         Shao et al. 2024, arXiv:2402.03300; none: Dr. GRPO, Liu et al. 2025, arXiv:2503.20783
  rloo                   r - mean of the group's other answers             Ahmadian et al. 2024, arXiv:2402.14740
  reinforce_pp           (R_t - m) / (s + 1e-4) over all tokens of the batch, R_t = r - beta sum of the KL from t on
  reinforce_pp_baseline  the same of r - m_group                           Hu 2025, arXiv:2501.03262

Answers that could not be graded move no mean and get 0; so does an answer that is alone in its group, where there is a
group. All are worked out once over what was sampled, never over a micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.objectives.config import AdvantageScale, check_scale

# Keeps a group whose rewards are nearly equal from being blown up; the value that TRL uses.
STD_EPSILON = 1e-4


def group_advantages(rewards: Tensor, scale: AdvantageScale = "group", valid: Tensor | None = None) -> Tensor:
    """How much better than its group each answer is: [G, K] for rewards [G, K] of K answers to each of G prompts.

    (reward - group mean) / (std + 1e-4), std with Bessel's correction of the group ("group"), of all rewards
    ("batch"), or no division ("none", Dr. GRPO). Rows that could not be scored are left out of mean and std and get 0:
    those where `valid` [G, K] is False, or, without `valid`, those that are NaN. A group with a single scored answer
    gets 0. ValueError if a valid reward is not a number.
    """
    check_scale(scale)
    clean, valid = _graded(rewards, valid)
    centred = _centred(clean, valid)
    if scale == "none":
        return centred
    if scale == "group":
        variance = centred.square().sum(1, keepdim=True) / (valid.sum(1, keepdim=True) - 1).clamp(min=1)
    else:
        scored = clean[valid]
        variance = scored.var() if scored.numel() > 1 else scored.new_zeros(())
    return centred / (variance.sqrt() + STD_EPSILON)


def leave_one_out(rewards: Tensor, valid: Tensor | None = None) -> Tensor:
    """RLOO: [G, K], each reward less the mean of its group's others. `valid` and errors as in `group_advantages`.

    The baseline does not depend on the answer itself, so the gradient's mean is right for every K; (K - 1)/K of it is
    the distance from the group's mean.
    """
    clean, valid = _graded(rewards, valid)
    others = valid.sum(1, keepdim=True) - 1  # [G, 1], of a graded answer
    baseline = (clean.sum(1, keepdim=True) - clean) / others.clamp(min=1)
    return torch.where(valid & _unequal(clean, valid), clean - baseline, 0.0)


def baseline_whitened(rewards: Tensor, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
    """REINFORCE++ with a baseline: [G, K], distances from the group's mean, whitened over the `tokens` [G, K] that all
    graded answers have. `valid` and errors as in `group_advantages`."""
    clean, valid = _graded(rewards, valid)
    valid = valid & (valid.sum(1, keepdim=True) > 1)  # one that is alone has no baseline
    weights = torch.where(valid, tokens.float(), 0.0)
    return torch.where(valid, whitened(_centred(clean, valid), weights), 0.0)


def reinforce_pp(returns: Tensor) -> Tensor:
    """REINFORCE++: [N], the returns [N] of all tokens of the batch (`returns_to_go`), whitened."""
    return whitened(returns, torch.ones_like(returns))


def returns_to_go(reward: float, penalties: Tensor) -> Tensor:
    """[T] for one answer: its reward, which comes at the end, less the penalties [T] from each token on. No discount,
    as Hu 2025 (arXiv:2501.03262, eq. 8) has it."""
    return reward - penalties.flip(0).cumsum(0).flip(0)


def whitened(values: Tensor, weights: Tensor) -> Tensor:
    """(values - mean) / (std + 1e-4), each value counted `weights` times; 0 where that is one time in all, and where
    all are equal."""
    if not values.numel() or bool(values.min() == values.max()):
        return torch.zeros_like(values)
    count = weights.sum()
    mean = (values * weights).sum() / count.clamp(min=1)
    variance = ((values - mean).square() * weights).sum() / (count - 1).clamp(min=1)
    return (values - mean) / (variance.sqrt() + STD_EPSILON)


def _graded(rewards: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """(rewards with 0 where there is none, which there are), both [G, K]."""
    assert rewards.ndim == 2, rewards.shape
    if valid is None:
        valid = ~rewards.isnan()
    elif not bool(rewards[valid].isfinite().all()):
        raise ValueError("a reward marked valid is not a finite number")
    return torch.where(valid, rewards, 0.0).float(), valid


def _centred(clean: Tensor, valid: Tensor) -> Tensor:
    mean = clean.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)  # [G, 1]
    return torch.where(valid & _unequal(clean, valid), clean - mean, 0.0)


def _unequal(clean: Tensor, valid: Tensor) -> Tensor:
    """[G, 1]: whether a group's graded rewards differ. The mean of equal ones may be another number in fp32 (of eight
    times 0.1 it is), and the optimizer would make a whole step of what is left."""
    low, high = (torch.where(valid, clean, other) for other in (torch.inf, -torch.inf))
    return low.amin(1, keepdim=True) < high.amax(1, keepdim=True)

"""Kahneman-Tversky optimisation: learning from single answers that were found good or bad.

With d = log pi(y|x)/pi_ref(y|x) summed over the answer's tokens, s = sigmoid, and z the reference point:

  desirable    w_D (1 - s(b (d - z)))
  undesirable  w_U (1 - s(b (z - d)))

(Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7-8). z is an estimate of KL(pi || pi_ref): the mean of d over answers
put under prompts that they do not answer, not below 0, and without gradient. TRL 1.16 takes that mean over a
micro-batch of all ranks, so that the loss changes with the number of accumulation steps and of GPUs. Here it is taken
over a *group* of examples that always stay together (the stages: a packed row), so neither can change it.

Limits: z is noisy for small groups and, cut off at 0, biased upwards; a group with no mismatched answer has z = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.objectives.base import LossTerm, Metric, mean_metric
from luopan.objectives.config import check_preference
from luopan.objectives.logprobs import sum_by_document


def kto(
    ratios: Tensor,
    desirable: Tensor,
    group: Tensor,
    mismatched: Tensor,
    mismatched_group: Tensor,
    *,
    num_groups: int,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> LossTerm:
    """The loss summed over N examples; weight N.

    ratios [N]: d of each example, with gradient; desirable [N] bool; group [N] int64 in 0..num_groups-1.
    mismatched [M]: d of the mismatched answers (their gradient is not used), mismatched_group [M] their groups.
    RecipeError for knobs that cannot work.
    """
    check_preference("kto", beta, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    assert ratios.ndim == 1 and ratios.shape == desirable.shape == group.shape
    assert mismatched.shape == mismatched_group.shape
    baseline = reference_points(mismatched, mismatched_group, num_groups)  # [G]
    ratios = ratios.float()
    gain = torch.where(desirable, 1.0, -1.0) * (ratios - baseline[group])  # [N] above 0: on the right side
    weights = torch.where(desirable, desirable_weight, undesirable_weight)
    total = (weights * (1 - torch.sigmoid(beta * gain))).sum()
    metrics = {"kl": mean_metric(baseline), "rewards/accuracies": mean_metric(gain.detach() > 0)}
    metrics |= by_label("rewards", beta * ratios.detach(), desirable)
    return LossTerm(total, total.new_tensor(float(ratios.numel())), metrics)


def reference_points(mismatched: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """z [G]: each group's mean of `mismatched` [M], at least 0; 0 for a group that has none."""
    mismatched = mismatched.detach().float()
    counts = sum_by_document(torch.ones_like(mismatched), group, num_groups)
    return (sum_by_document(mismatched, group, num_groups) / counts.clamp(min=1)).clamp(min=0)


def by_label(name: str, values: Tensor, desirable: Tensor) -> dict[str, Metric]:
    """`name`/chosen and `name`/rejected: the means over desirable and undesirable examples, [N] each."""
    good = desirable.to(values)
    return {
        f"{name}/chosen": ((values * good).sum(), good.sum()),
        f"{name}/rejected": ((values * (1 - good)).sum(), (1 - good).sum()),
    }

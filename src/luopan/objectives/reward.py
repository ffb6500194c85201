"""The reward model's loss: the better answer of a pair gets the higher number.

  -log s(r+ - r- - m) + lambda (r+ + r-)^2          summed over pairs

(Bradley and Terry 1952; with a margin m by how much the one is better: Touvron et al. 2023, arXiv:2307.09288, eq. 2;
the second term keeps rewards around 0: Eisenstein et al. 2023, arXiv:2312.09244.)
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, mean_metric


def bradley_terry(
    chosen: Tensor, rejected: Tensor, *, margin: Tensor | None = None, center_rewards_coefficient: float = 0.0
) -> LossTerm:
    """The loss summed over P pairs; weight P.

    chosen, rejected [P]: rewards of the two answers; margin [P]. RecipeError for a negative coefficient.
    """
    if center_rewards_coefficient < 0:
        raise RecipeError(f"center_rewards_coefficient is {center_rewards_coefficient}, it must not be negative")
    assert chosen.ndim == 1 and chosen.shape == rejected.shape, (chosen.shape, rejected.shape)
    chosen, rejected = chosen.float(), rejected.float()
    gap = chosen - rejected
    total = -F.logsigmoid(gap if margin is None else gap - margin.float()).sum()
    if center_rewards_coefficient:
        total = total + center_rewards_coefficient * (chosen + rejected).square().sum()
    metrics = {
        "rewards/chosen": mean_metric(chosen),
        "rewards/rejected": mean_metric(rejected),
        "rewards/margins": mean_metric(gap),
        "rewards/accuracies": mean_metric(gap.detach() > 0),
    }
    return LossTerm(total, total.new_tensor(float(chosen.numel())), metrics)

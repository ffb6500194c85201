"""Direct preference optimisation: the policy itself is the reward model, log pi/pi_ref its reward.

With c = log pi(y_w)/pi_ref(y_w) for the chosen answer, r the same for the rejected one, D = c - r, s = sigmoid:

  sigmoid   -(1-e) log s(bD) - e log s(-bD)              Rafailov et al. 2023, arXiv:2305.18290 (e > 0: cDPO)
  robust    [-(1-e) log s(bD) + e log s(-bD)] / (1-2e)   Chowdhury et al. 2024, arXiv:2403.00409
  hinge     max(0, 1 - bD)                               Zhao et al. 2023 (SLiC), arXiv:2305.10425
  ipo       (c/|y_w| - r/|y_l| - 1/(2b))^2               Azar et al. 2023, arXiv:2310.12036, on per-token means
  apo_zero  1 - s(bc) + s(br)                            D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7
  apo_down  s(bc) + 1 - s(bD)                            the same, eq. 8

A falling loss and a growing margin do not say that answers get better: a policy can collapse while both look perfect.
Judge by sampled answers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.errors import RecipeError
from luopan.objectives.base import LossTerm, mean_metric
from luopan.objectives.config import PreferenceLossType, check_preference


def dpo(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    loss_type: PreferenceLossType = "sigmoid",
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
    nll: Tensor | None = None,
    nll_coef: float = 0.0,
) -> LossTerm:
    """The chosen loss summed over P pairs, plus nll_coef * the sum of `nll`; weight P.

    chosen, rejected, reference_chosen, reference_rejected [P]: summed log-probabilities of the answers' tokens.
    chosen_lengths, rejected_lengths [P]: the number of those tokens; needed by `ipo`, not read by the others.
    nll [P]: mean negative log-likelihood per token of each chosen answer (the term of Pang et al. 2024,
    arXiv:2404.19733, eq. 2), reported as a metric and, with nll_coef, added. Metrics as TRL names them.
    RecipeError for a knob that cannot work or would do nothing.
    """
    check_preference(loss_type, beta, label_smoothing, nll_coef)
    assert chosen.ndim == 1 and chosen.shape == rejected.shape == reference_chosen.shape == reference_rejected.shape
    if nll_coef and nll is None:
        raise RecipeError(f"nll_coef is {nll_coef}, but no negative log-likelihood of the chosen answers was given")
    chosen_ratio = chosen.float() - reference_chosen.float()  # [P]
    rejected_ratio = rejected.float() - reference_rejected.float()  # [P]
    if loss_type == "ipo":
        if chosen_lengths is None or rejected_lengths is None:
            raise RecipeError("loss_type 'ipo' needs the answers' lengths in tokens, and they were not given")
        gap = chosen_ratio / chosen_lengths.clamp(min=1) - rejected_ratio / rejected_lengths.clamp(min=1)
        losses = (gap - 1 / (2 * beta)).square()
    else:
        losses = _losses(loss_type, beta * chosen_ratio, beta * rejected_ratio, label_smoothing)
    total = losses.sum()
    metrics = _metrics(beta * chosen_ratio.detach(), beta * rejected_ratio.detach())
    metrics["logps/chosen"] = mean_metric(chosen)
    metrics["logps/rejected"] = mean_metric(rejected)
    if nll is not None:
        metrics["nll_loss"] = mean_metric(nll)
        if nll_coef:
            total = total + nll_coef * nll.float().sum()
    return LossTerm(total=total, weight=total.new_tensor(float(chosen.numel())), metrics=metrics)


def _losses(loss_type: str, chosen: Tensor, rejected: Tensor, label_smoothing: float) -> Tensor:
    """Loss per pair [P] from the rewards b*c and b*r [P]."""
    margin = chosen - rejected
    if loss_type == "hinge":
        return torch.relu(1 - margin)
    if loss_type == "apo_zero":
        return 1 - torch.sigmoid(chosen) + torch.sigmoid(rejected)
    if loss_type == "apo_down":
        return torch.sigmoid(chosen) + 1 - torch.sigmoid(margin)
    right, flipped = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    if loss_type == "robust":
        return ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)
    assert loss_type == "sigmoid", loss_type
    return (1 - label_smoothing) * right + label_smoothing * flipped


def _metrics(chosen: Tensor, rejected: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        "rewards/chosen": mean_metric(chosen),
        "rewards/rejected": mean_metric(rejected),
        "rewards/margins": mean_metric(chosen - rejected),
        "rewards/accuracies": mean_metric(chosen > rejected),
    }

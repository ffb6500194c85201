"""Ratios of probabilities: how much likelier the policy makes an answer than the policy that was asked for it.

There are up to three policies: the one that is updated, the one at the start of the update as the trainer sees it
("old"), and the one that sampled, which may run in another engine or be some updates behind. Between the first two
stands the ratio that the loss clips; between the last two a weight that puts the samples right, capped, because the
variance of such weights has no bound (truncated importance sampling; Ionides 2008, Espeholt et al. 2018,
arXiv:1802.01561; for engines that differ from the trainer Yao et al. 2025, "Your efficient RL framework secretly brings
you off-policy RL training"). The cap makes them biased, towards the sampler.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from luopan.objectives.config import check_cap
from luopan.objectives.logprobs import sum_by_document


def importance_ratio(
    log_ratio: Tensor, sequence: Tensor, num_sequences: int, level: Literal["token", "sequence", "product"]
) -> Tensor:
    """pi / pi_old for each token [N], of log_ratio [N] = log pi - log pi_old.

    "token": its own. "sequence": the geometric mean over its sequence (GSPO, Zheng et al. 2025, arXiv:2507.18071, eq.
    7). "product": of the whole sequence, which is how likely the answer as one action is.
    """
    if level == "token":
        return torch.exp(log_ratio)
    summed = sum_by_document(log_ratio, sequence, num_sequences)  # [S]
    if level == "sequence":
        summed = summed / token_counts(sequence, num_sequences).clamp(min=1)
    return torch.exp(summed)[sequence]


def token_counts(sequence: Tensor, num_sequences: int) -> Tensor:
    """[S] fp32: how many tokens each sequence has."""
    return sum_by_document(torch.ones_like(sequence, dtype=torch.float32), sequence, num_sequences)


def truncated_weights(old_logprobs: Tensor, sampled_logprobs: Tensor, cap: float) -> Tensor:
    """min(exp(old - sampled), cap) for each token [N], without gradient; RecipeError if `cap` is under 1."""
    check_cap(cap)
    return torch.exp(old_logprobs.detach() - sampled_logprobs.detach()).clamp(max=cap)

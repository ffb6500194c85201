"""How far one distribution is from another, estimated from tokens that the first one sampled.

With d = log p_ref - log p of a sampled token (Schulman 2020, "Approximating KL divergence"):

  k1 = -d                 unbiased, but of either sign
  k2 = d^2 / 2            never negative, biased
  k3 = exp(d) - d - 1     never negative, unbiased

An unbiased value does not make an unbiased gradient. As a loss, on tokens of the policy itself, k2 has in the mean the
gradient of KL(policy || reference); k1's is 0, pure noise; k3's is that of the KL the other way round. Weighted with
the ratio pi / pi_old, gradient and all, k1 and k3 have the right one too (DeepSeek-V3.2, arXiv:2512.02556), k2 has not:
`config.default_correction`. In the reward k1 is right, and only there does a token answer for how far those after it
stray (Tang and Munos 2025, arXiv:2506.09477).
"""

from __future__ import annotations

import torch
from torch import Tensor

from luopan.objectives.config import KlEstimator, check_estimator


def divergence(logprobs: Tensor, reference_logprobs: Tensor, estimator: KlEstimator = "k3") -> Tensor:
    """The estimate for each token [N], with the gradient that `logprobs` carry; the reference has none."""
    check_estimator(estimator)
    difference = reference_logprobs.detach() - logprobs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.exp(difference) - difference - 1

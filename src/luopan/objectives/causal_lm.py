"""Next-token prediction: the cross-entropy of the targets, summed over the trained positions."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from luopan.objectives.base import LossTerm


def causal_lm(logits: Tensor, targets: Tensor) -> LossTerm:
    """-sum_n log softmax(logits_n)[target_n], in fp32; weight N.

    logits [N, V] at the positions *before* each trained token, targets [N] int64 those tokens' ids: the shift and the
    mask are the caller's, so the head runs on trained positions only. N = 0 gives 0 over 0, with a gradient of zero.
    """
    assert logits.ndim == 2 and targets.shape == logits.shape[:1], (logits.shape, targets.shape)
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return LossTerm(total=total, weight=total.new_tensor(float(targets.numel())))

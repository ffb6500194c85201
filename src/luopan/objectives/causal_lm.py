"""Next-token prediction: the cross-entropy of the targets, summed over the trained positions.

The definition. Training computes the same from the hidden states, piece by piece (`luopan.model.head`), and is tested
against this.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from luopan.objectives.base import LossTerm


def causal_lm(logits: Tensor, targets: Tensor, *, z_loss_coef: float = 0.0) -> LossTerm:
    """-sum_n log softmax(logits_n)[target_n] + z_loss_coef * sum_n lse_n^2, in fp32; weight N.

    logits [N, V] at the positions *before* each trained token, targets [N] int64 those tokens' ids: the shift and the
    mask are the caller's, so the head runs on trained positions only. lse is the log of the softmax's denominator; the
    second term is the z-loss of PaLM (arXiv:2204.02311, section 5). N = 0 gives 0 over 0, with a gradient of zero.
    """
    assert logits.ndim == 2 and targets.shape == logits.shape[:1], (logits.shape, targets.shape)
    logits = logits.float()
    total = F.cross_entropy(logits, targets, reduction="sum")
    weight = total.new_tensor(float(targets.numel()))
    if not z_loss_coef:
        return LossTerm(total, weight)
    squares = logits.logsumexp(-1).square().sum()
    return LossTerm(total + z_loss_coef * squares, weight, {"z_loss": (squares.detach(), weight)})

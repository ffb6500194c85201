"""Staying where it was: the divergence of a model from what it said before training, token by token.

A sampled answer of the earlier model, trained as text, asks for the same on average, but each token speaks for itself
alone; the earlier model's probabilities speak for all tokens at once, so that few hundred answers hold a model that
thousands would not. Kept are the likeliest k of each place and what is left in one lump: the divergence over these
k + 1 classes is at most that over the vocabulary, and equal to it where k is the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SMALLEST = 1e-7  # of the lump; its logarithm must stay finite


def top_logprobs(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens [N, k] int64 of logits [N, V], and their log-probabilities [N, k] fp32."""
    values, ids = logits.float().log_softmax(-1).topk(min(k, logits.shape[-1]))
    return ids, values


def kept_divergence(
    hidden: Tensor, weight: Tensor, ids: Tensor, logprobs: Tensor, *, softcap: float | None = None, piece: int = 256
) -> Tensor:
    """Sum over n of KL(before || now) over the kept tokens and the lump, in nats; fp32 scalar.

    hidden [N, C], weight [V, C]; ids [N, k] and logprobs [N, k] as `top_logprobs` gave them before. Runs over `piece`
    places at a time, whose logits are computed again in the backward pass. N = 0 gives 0.
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    for part, kept, before in zip(hidden.split(piece), ids.split(piece), logprobs.split(piece)):
        if part.shape[0]:
            total = total + checkpoint(_piece, part, weight, kept, before, softcap, use_reentrant=False)
    return total


def _piece(hidden: Tensor, weight: Tensor, ids: Tensor, before: Tensor, softcap: float | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight).float()  # [n, V]
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    now = logits.gather(1, ids) - logits.logsumexp(-1, keepdim=True)  # [n, k]
    chance = before.exp()
    lump_before, lump_now = _lump(before), _lump(now)
    within: Tensor = (chance * (before - now)).sum()
    return within + (lump_before * (lump_before.log() - lump_now.log())).sum()


def _lump(logprobs: Tensor) -> Tensor:
    """The probability of all other tokens [n]."""
    return (1 - logprobs.exp().sum(-1)).clamp_min(SMALLEST)

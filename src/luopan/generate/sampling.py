"""From logits to tokens, as pure functions over a batch: penalty, temperature, filters, and the draw itself.

The draw is the inverse of the cumulative distribution at one uniform number per row. One number per token instead of
one per vocabulary entry (Gumbel noise) makes the noise free, and it comes from a counter (Philox) keyed by seed and
request, so a request draws the same numbers whatever else is in the batch. What remains is rounding: matrix products
over another batch size differ in the last bits, which moves a draw about once in a million tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from luopan.generate.config import SamplingParams

_MASK_64 = 2**64 - 1
# Sorting 2048 logits of 128 rows takes 15 ms, their 256 largest 4 ms (one core); the nucleus is nearly always smaller.
_NUCLEUS_GUESS = 256


def uniforms(seed: int, request: int, count: int) -> np.ndarray:
    """[count] float32 in [0, 1): the numbers that request `request` draws its 1st, 2nd, ... token with."""
    bits = np.random.Philox(key=np.array([seed & _MASK_64, request & _MASK_64], dtype=np.uint64)).random_raw(count)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """[B, V]: the logits of tokens that have occurred (`seen` [B, V] bool) made less likely.

    Divided by the penalty where positive, multiplied where negative (Keskar et al. 2019, arXiv:1909.05858, as
    transformers reads it).
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """[B, V] with all but the k largest logits (and those equal to the k-th) at minus infinity."""
    if top_k >= logits.shape[-1]:
        return logits
    smallest = logits.topk(top_k, dim=-1).values[:, -1:]  # [B, 1]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """[B, V] with everything outside the nucleus at minus infinity: the fewest likeliest tokens whose probabilities
    reach top_p (Holtzman et al. 2020, arXiv:1904.09751). The likeliest one always stays."""
    if top_p >= 1:
        return logits
    vocab_size = logits.shape[-1]
    total = logits.logsumexp(-1, keepdim=True)  # [B, 1]
    for size in (min(_NUCLEUS_GUESS, vocab_size), vocab_size):
        values, indices = logits.topk(size, dim=-1)  # descending
        reached = (values - total).exp().cumsum(-1)  # [B, size], probability up to and with each token
        if size == vocab_size or bool((reached[:, -1] >= top_p).all()):
            break
    keep = torch.ones_like(reached, dtype=torch.bool)
    keep[:, 1:] = reached[:, :-1] < top_p  # a token stays while those before it do not reach top_p
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, indices, keep)
    return logits.masked_fill(~kept, -torch.inf)


def keep_min_p(logits: Tensor, min_p: float) -> Tensor:
    """[B, V] with tokens less likely than min_p times the likeliest at minus infinity (arXiv:2407.01082)."""
    if min_p <= 0:
        return logits
    # p >= min_p * p_max, in logs: the normaliser cancels.
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + float(np.log(min_p)), -torch.inf)


def warp(logits: Tensor, params: SamplingParams, seen: Tensor | None = None) -> Tensor:
    """The logits [B, V] of the distribution that is drawn from, fp32; for greedy decoding only the penalty applies.

    `seen` [B, V] bool, the tokens that have occurred, is needed with a repetition penalty.
    """
    logits = logits.float()
    if params.repetition_penalty != 1:
        assert seen is not None
        logits = penalise_repetition(logits, seen, params.repetition_penalty)
    if params.greedy:
        return logits
    if params.temperature != 1:
        logits = logits / params.temperature
    if params.top_k is not None:
        logits = keep_top_k(logits, params.top_k)
    return keep_min_p(keep_top_p(logits, params.top_p), params.min_p)


def draw(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row from softmax(logits [B, V]) with uniform [B, 1] in [0, 1): tokens [B], their logprobs [B].

    `uniform` is fp32, as `uniforms` makes it. A token of probability zero is never drawn: sums on either side of it are
    equal. Logits that are no numbers give a logprob that is none.
    """
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    # At most 1 - 2^-24, so the product rounds to less than the last sum, which is near 1.
    threshold = uniform * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True)  # the first whose sum is above it
    tokens = tokens.clamp_(max=logits.shape[-1] - 1)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0].log()


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token per row [B] and its log-probability [B] under softmax(logits [B, V]) (temperature 1)."""
    best, tokens = logits.max(-1)
    return tokens, best - logits.logsumexp(-1)

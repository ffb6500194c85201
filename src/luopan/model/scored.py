"""Attention by its definition: the scores are computed, changed, masked and normalised one after the other.

For what no fused kernel does on the CPU: soft-capped scores and attention sinks. Limit: the scores are kept for the
backward pass, so memory grows with queries times keys; callers keep that small by cutting rows into documents and
documents into windows (`banded.py`), or recompute it (`Decoder.recompute`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend_scored(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, S, D], mask broadcastable to [B, 1, T, S] -> [B, H, T, D].

    `mask` is bool (True = may attend) or added to the scores. `softcap` c bends a scaled score s to c tanh(s / c)
    before the mask (Gemma 2, arXiv:2408.00118). `sinks` [H] are logits that take part in the softmax and carry no
    value, so that a head may attend to nothing (gpt-oss, arXiv:2508.10925; StreamingLLM, arXiv:2309.17453).
    """
    batch, heads, length, size = query.shape
    kv_heads, held = key.shape[1], key.shape[2]
    group = heads // kv_heads
    # The query heads of a group are as good as more queries of one head: no key is copied.
    folded = (query * (1 / math.sqrt(size))).reshape(batch, kv_heads, group * length, size)
    scores = (folded @ key.transpose(-1, -2)).view(batch, kv_heads, group, length, held)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    mask = mask[:, :, None]  # [B, 1, 1, T, S]
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = _softmax(scores, sinks).to(value.dtype).view(batch, kv_heads, group * length, held)
    return (weights @ value).view(batch, heads, length, size)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """scores [B, Hkv, G, T, S], sinks [Hkv * G] -> weights of the same shape; with sinks they add up to less than 1."""
    if sinks is None:
        return scores.softmax(-1)
    batch, kv_heads, group, length, _ = scores.shape
    column = sinks.to(scores.dtype).view(1, kv_heads, group, 1, 1).expand(batch, -1, -1, length, 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]

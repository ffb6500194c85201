"""Document-aware attention with sinks and soft caps on CUDA: torch's FlexAttention, compiled.

Sinks need no column of their own: with lse the log of the sum of a query's exponentials, the output is the plain one
times sigmoid(lse - sink). Limits: compiled, it has not run on a GPU yet; uncompiled, which is what the tests compare
on the CPU, it computes all T^2 scores. It compiles once per shape of queries and keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from luopan.model.branches import Branches


@functools.cache
def _flex_function() -> Callable[..., Any] | None:
    """`flex_attention`, or None where this torch cannot also return the log of the sum of exponentials."""
    try:
        from torch.nn.attention.flex_attention import AuxRequest, flex_attention
    except ImportError:
        return None
    return functools.partial(flex_attention, return_aux=AuxRequest(lse=True))


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    function = _flex_function()
    assert function is not None
    return torch.compile(function, dynamic=False)


def flex_runs_on(query: Tensor) -> bool:
    """Whether these queries can use it: CUDA, a head size of at least 16, which its kernels ask for."""
    return query.device.type == "cuda" and query.shape[-1] >= 16 and _flex_function() is not None


def build_block_mask(
    document_index: Tensor, window: int | None, branches: Branches | None = None, position_ids: Tensor | None = None
) -> Any:
    """document_index [B, T] -> the blocks of scores that are computed at all (`BlockMask`).

    With `branches` also position_ids [B, T].
    """
    from torch.nn.attention.flex_attention import create_block_mask

    batch, length = document_index.shape
    reach = length if window is None else window

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (document_index[b, q] == document_index[b, k]) & (q >= k) & (q - k < reach)

    def visible_with_trunk(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert branches is not None and position_ids is not None
        shared = (branches.trunk_index[b, q] == document_index[b, k]) & (position_ids[b, k] < branches.prefix[b, q])
        own = (document_index[b, q] == document_index[b, k]) & (q >= k)
        return (own | shared) & (position_ids[b, q] - position_ids[b, k] < reach)

    rule = visible if branches is None else visible_with_trunk
    return create_block_mask(rule, batch, None, length, length, device=str(document_index.device))


def attend_flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Any,
    sinks: Tensor | None,
    softcap: float | None,
    *,
    compiled: bool = True,
) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, T, D], sinks [H] -> [B, H, T, D]."""

    cap = softcap or math.inf

    def bend(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    function = _compiled_flex() if compiled else _flex_function()
    assert function is not None
    out, aux = function(
        query,
        key,
        value,
        score_mod=None if softcap is None else bend,
        block_mask=block_mask,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if sinks is None:
        return out
    share = torch.sigmoid(aux.lse - sinks.to(aux.lse.dtype)[None, :, None])  # [B, H, T]: what the sink leaves over
    return out * share[..., None].to(out.dtype)

"""Document-aware attention on CUDA: torch's variable-length flash attention (`torch.nn.attention.varlen`)."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor


@functools.cache
def _varlen_function() -> tuple[Any, frozenset[str]] | None:
    """`varlen_attn` and the names of its parameters (they changed between 2.10 and 2.13), None where it is absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def varlen_runs_on(query: Tensor) -> bool:
    """Whether these queries can use it: half precision on CUDA, and a torch that has it."""
    return query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16) and _varlen_function() is not None


def attend_varlen(query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, T, D], documents at `offsets` of the flattened batch."""
    found = _varlen_function()
    assert found is not None
    function, names = found
    batch, heads, length, size = query.shape
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    if key.shape[1] != heads:
        if "enable_gqa" in names:
            options["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    flat = [x.transpose(1, 2).reshape(batch * length, x.shape[1], size) for x in (query, key, value)]
    out = function(*flat, offsets, offsets, longest, longest, **options)
    return out.view(batch, length, heads, size).transpose(1, 2)

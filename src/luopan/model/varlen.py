"""Document-aware attention on CUDA: torch's variable-length flash attention (`torch.nn.attention.varlen`).

Limit: written to torch's documentation; not yet run on a GPU (`tests/model/test_attention.py` has the test).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from luopan.model.branches import Branches
from luopan.model.stacks import Reuse, build_reuse, reuse_tokens


@functools.cache
def _varlen_function() -> tuple[Any, frozenset[str]] | None:
    """`varlen_attn` and its parameters' names (`enable_gqa` came after torch 2.11), None where it is absent."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def varlen_runs_on(query: Tensor) -> bool:
    """Whether these queries can use it: CUDA, half precision, a head size that flash attention takes."""
    fits = query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256
    return query.device.type == "cuda" and fits and _varlen_function() is not None


@dataclass(frozen=True, eq=False)
class VarlenKeys:
    """Keys of a batch with branches: of every document those of the trunk that it continues, then its own."""

    reuse: Reuse
    offsets: Tensor  # [documents + 1] int32, where each document's keys begin
    longest: int


def build_varlen_keys(starts: Sequence[int], lengths: Sequence[int], branches: Branches) -> VarlenKeys:
    """On the CPU; move it with `moved`."""
    spans = []
    for start, length, trunk, prefix in zip(starts, lengths, branches.trunks, branches.prefixes, strict=True):
        spans += [torch.arange(starts[trunk], starts[trunk] + prefix), torch.arange(start, start + length)]
    own = torch.arange(len(spans)).remainder(2).bool().repeat_interleave(torch.tensor([len(span) for span in spans]))
    sizes = torch.tensor([prefix + length for prefix, length in zip(branches.prefixes, lengths, strict=True)])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)]).to(torch.int32)
    return VarlenKeys(build_reuse(torch.cat(spans), own, ~own), offsets, int(sizes.max()))


def moved(keys: VarlenKeys, device: torch.device) -> VarlenKeys:
    """On `device`."""
    return VarlenKeys(keys.reuse.to(device), keys.offsets.to(device), keys.longest)


def attend_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    longest: int,
    window: int | None = None,
    keys: VarlenKeys | None = None,
) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, T, D], documents at `offsets` of the flattened batch.

    A token sees the `window` latest tokens of its document, itself included, or all of them. With `keys` a document
    has more keys than queries; flash attention lets the last query see the last key, which is what is wanted.
    """
    found = _varlen_function()
    assert found is not None
    function, names = found
    batch, heads, length, size = query.shape
    # Earlier and later tokens that are seen besides one's own; -1 is any number.
    options: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
    if key.shape[1] != heads:
        if "enable_gqa" in names:
            options["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
    flat = [x.transpose(1, 2).reshape(batch * length, x.shape[1], size) for x in (query, key, value)]
    if keys is None:
        out = function(*flat, offsets, offsets, longest, longest, **options)
    else:
        flat[1:] = [reuse_tokens(x, keys.reuse) for x in flat[1:]]
        out = function(*flat, offsets, keys.offsets, longest, keys.longest, **options)
    return out.view(batch, length, heads, size).transpose(1, 2)

"""Document-aware attention on the CPU: documents of similar length are stacked and attended to as small batches.

torch has no variable-length attention on the CPU, a mask computes all T^2 scores, and one call per document pays
for each call. Here the rows (one token's head) of q, k and v are gathered into stacks [documents, H, L, D] of similar
length, padded at the end, attention is causal within each, and the result is gathered back. Padding comes after
every real token of its document, so causality alone hides it, and no gradient comes out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Up to this length two batched products and a softmax beat the flash kernel (see attend_stacked).
_LONGEST_PLAIN = 128


@dataclass(frozen=True, eq=False)
class Stacks:
    """Where each row of [B * T * heads] goes: stacks [(documents, length)], and the gathers there and back."""

    heads: int
    shapes: tuple[tuple[int, int], ...]  # documents, padded length
    take: Tensor  # [rows in stacks] -> row of the batch
    give: Tensor  # [B * T * heads] -> row in stacks
    padding: Tensor  # rows in stacks that hold no token


def build_stacks(starts: Sequence[int], lengths: Sequence[int], shape: tuple[int, int], heads: int) -> Stacks:
    """Group documents, longest first, so that a document is at least 9/10 (or within 8) of the stack's length."""
    order = sorted(range(len(lengths)), key=lambda document: -lengths[document])
    groups: list[list[int]] = []
    for document in order:
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (lengths[document] >= 0.9 * longest or lengths[document] >= longest - 8):
            groups[-1].append(document)
        else:
            groups.append([document])
    head = torch.arange(heads)[None, :, None]
    takes, pads, shapes = [], [], []
    for group in groups:
        size = torch.tensor([lengths[document] for document in group])[:, None]  # [documents, 1]
        first = torch.tensor([starts[document] for document in group])[:, None]
        step = torch.arange(int(size[0]))[None]  # [1, L]
        token = first + torch.minimum(step, size - 1)
        takes.append((token[:, None] * heads + head).view(-1))  # [documents, heads, L]
        pads.append((step >= size)[:, None].expand(-1, heads, -1).reshape(-1))
        shapes.append((len(group), int(size[0])))
    take, is_padding = torch.cat(takes), torch.cat(pads)
    give = torch.empty(shape[0] * shape[1] * heads, dtype=torch.int64)
    real = (~is_padding).nonzero().view(-1)
    give[take[real]] = real
    return Stacks(heads, tuple(shapes), take, give, is_padding.nonzero().view(-1))


class _Stack(torch.autograd.Function):
    """Rows of the batch to rows of the stacks. Both directions are gathers: no scatter, no zeroed buffer."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, take: Tensor, give: Tensor) -> Tensor:
        ctx.save_for_backward(give)
        return rows.index_select(0, take)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (give,) = ctx.saved_tensors
        return grad.index_select(0, give), None, None  # the gradient at padding rows is zero


class _Unstack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, take: Tensor, give: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(take, padding)
        return rows.index_select(0, give)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        take, padding = ctx.saved_tensors
        return grad.index_select(0, take).index_fill_(0, padding, 0.0), None, None, None


def attend_stacked(query: Tensor, key: Tensor, value: Tensor, q_rows: Stacks, kv_rows: Stacks) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, T, D] -> [B, H, T, D]."""
    batch, heads, length, size = query.shape
    parts = [
        _Stack.apply(x.transpose(1, 2).reshape(-1, size), rows.take, rows.give).split(
            [documents * rows.heads * long for documents, long in rows.shapes]
        )
        for x, rows in ((query, q_rows), (key, kv_rows), (value, kv_rows))
    ]
    outputs = [
        _attend_stack(q, k, v, documents, long, heads, kv_rows.heads)
        for q, k, v, (documents, long) in zip(*parts, q_rows.shapes, strict=True)
    ]
    rows = _Unstack.apply(torch.cat(outputs), q_rows.take, q_rows.give, q_rows.padding)
    return rows.view(batch, length, heads, size).transpose(1, 2)


def _attend_stack(
    query: Tensor, key: Tensor, value: Tensor, documents: int, length: int, heads: int, kv_heads: int
) -> Tensor:
    """Causal attention over one stack; rows are ordered (document, head, position). Returns rows like query's."""
    size, group = query.shape[-1], heads // kv_heads
    if length > _LONGEST_PLAIN:
        q = query.view(documents, heads, length, size)
        k, v = (x.view(documents, kv_heads, length, size) for x in (key, value))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=group > 1)
        return out.reshape(-1, size)
    # The query heads of one key head follow each other, so a group is one matrix [group * L, D]: no key is repeated.
    q = query.view(documents * kv_heads, group * length, size)
    k, v = (x.view(documents * kv_heads, length, size) for x in (key, value))
    future = torch.full((length, length), -math.inf, dtype=q.dtype).triu_(1).repeat(group, 1)
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=1 / math.sqrt(size))
    return torch.bmm(scores.softmax(-1), v).view(-1, size)

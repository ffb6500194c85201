"""Attention on the CPU for sliding windows, sinks and soft caps: only the band of scores that counts is computed.

A document longer than the window is cut into pieces of queries. A piece comes with its own keys and the window - 1
keys before it, which one mask, the same for all pieces of a stack, narrows to the band; so T tokens cost about
T * 2 * window scores, not T^2. The first piece of a document (or the whole of a shorter one) has nothing before it.
Pieces of similar length are stacked as in `stacks.py`. Without a window each document is one piece.

Without sinks and soft caps a stack goes to scaled-dot-product attention, otherwise to `scored.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.model.scored import attend_scored
from luopan.model.stacks import similar, stack, unstack

# Shorter pieces than this cost more in calls than they save in scores.
_SHORTEST_PIECE = 64


@dataclass(frozen=True, eq=False)
class Band:
    """A stack of `pieces` with `length` queries each, and `history` more keys, which lie before the first query."""

    pieces: int
    length: int
    history: int
    mask: Tensor  # bool [1, 1, length, history + length], True = may attend
    is_causal: bool  # the mask says no more than that


@dataclass(frozen=True, eq=False)
class Bands:
    """Where each token of [B * T] goes: as a query into one place, as a key into its piece's and the next one's."""

    bands: tuple[Band, ...]
    take: Tensor  # [places of queries] -> token of the batch
    give: Tensor  # [B * T] -> place of the query
    padding: Tensor  # places of queries that hold no token
    take_keys: Tensor | None  # [places of keys] -> token of the batch; None: the same as of the queries


def build_bands(starts: Sequence[int], lengths: Sequence[int], window: int | None) -> Bands:
    """Cut documents into pieces, stack pieces of similar length."""
    pieces = sorted(_pieces(starts, lengths, window), key=lambda piece: (piece[2], -piece[1]))
    groups: list[list[tuple[int, int, int]]] = []
    for piece in pieces:
        if groups and groups[-1][0][2] == piece[2] and similar(piece[1], groups[-1][0][1]):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    takes, pads, keys, bands = [], [], [], []
    for group in groups:
        length, history = group[0][1:]
        first = torch.tensor([piece[0] for piece in group])[:, None]  # [pieces, 1]
        size = torch.tensor([piece[1] for piece in group])[:, None]
        step = torch.arange(-history, length)[None]  # [1, history + length], 0 at the first query
        tokens = first + torch.minimum(step, size - 1)
        keys.append(tokens.view(-1))
        takes.append(tokens[:, history:].reshape(-1))
        pads.append((step[:, history:] >= size).view(-1))
        mask = _band_mask(length, history, window)
        bands.append(Band(len(group), length, history, mask, history == 0 and (window is None or length <= window)))
    take, is_padding = torch.cat(takes), torch.cat(pads)
    real = (~is_padding).nonzero().view(-1)
    give = torch.empty_like(real)
    give[take[real]] = real
    has_history = any(band.history for band in bands)
    return Bands(tuple(bands), take, give, is_padding.nonzero().view(-1), torch.cat(keys) if has_history else None)


def _pieces(starts: Sequence[int], lengths: Sequence[int], window: int | None) -> Iterator[tuple[int, int, int]]:
    """First token, queries and keys before them. A piece is at least as long as what it looks back on."""
    for start, length in zip(starts, lengths, strict=True):
        if window is None:
            yield start, length, 0
            continue
        longest = max(window, _SHORTEST_PIECE)
        for first in range(0, length, longest):
            yield start + first, min(longest, length - first), window - 1 if first else 0


def _band_mask(length: int, history: int, window: int | None) -> Tensor:
    back = torch.arange(length)[:, None] + history - torch.arange(history + length)  # how far back the key lies
    mask = back >= 0 if window is None else (back >= 0) & (back < window)
    return mask[None, None]


def attend_banded(
    query: Tensor, key: Tensor, value: Tensor, bands: Bands, sinks: Tensor | None, softcap: float | None
) -> Tensor:
    """query [B, H, T, D], key and value [B, Hkv, T, D], sinks [H] -> [B, H, T, D]."""
    batch, heads, length, size = query.shape
    tokens = [x.transpose(1, 2).reshape(batch * length, -1) for x in (query, key, value)]
    queries = stack(tokens[0], bands.take, bands.give).split([b.pieces * b.length for b in bands.bands])
    held = [_take_keys(x, bands).split([b.pieces * (b.history + b.length) for b in bands.bands]) for x in tokens[1:]]
    outputs = []
    for q, k, v, band in zip(queries, *held, bands.bands, strict=True):
        q, k, v = (x.view(band.pieces, x.shape[0] // band.pieces, -1, size).transpose(1, 2) for x in (q, k, v))
        out = _attend_band(q, k, v, band, sinks, softcap)  # [pieces, H, L, D]
        outputs.append(out.transpose(1, 2).reshape(band.pieces * band.length, heads * size))
    placed = unstack(torch.cat(outputs), bands.take, bands.give, bands.padding)
    return placed.view(batch, length, heads, size).transpose(1, 2)


def _take_keys(tokens: Tensor, bands: Bands) -> Tensor:
    if bands.take_keys is None:
        return stack(tokens, bands.take, bands.give)
    return tokens.index_select(0, bands.take_keys)  # a key may stand in two places: its gradients are added


def _attend_band(q: Tensor, k: Tensor, v: Tensor, band: Band, sinks: Tensor | None, softcap: float | None) -> Tensor:
    if sinks is not None or softcap is not None:
        return attend_scored(q, k, v, band.mask, sinks, softcap)
    grouped = q.shape[1] != k.shape[1]
    if band.is_causal:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=band.mask, enable_gqa=grouped)

"""Attention on the CPU for sliding windows, sinks and soft caps: only the band of scores that counts is computed.

A document longer than the window is cut into pieces of queries. A piece comes with its own keys and the window - 1
keys before it, which one mask, the same for all pieces of a stack, narrows to the band; so T tokens cost about
T * 2 * window scores, not T^2. The first piece of a document (or the whole of a shorter one) has nothing before it.
Pieces of similar length are stacked as in `stacks.py`. Without a window each document is one piece. What a branch sees
of its trunk (`branches.py`) is, likewise, keys before its first piece; there the pieces of a stack differ in how many
they have, and in their masks.

Without sinks and soft caps a stack goes to scaled-dot-product attention, otherwise to `scored.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.model.branches import Branches
from luopan.model.scored import attend_scored
from luopan.model.stacks import Reuse, build_reuse, reuse_tokens, similar, stack, unstack

# Shorter pieces than this cost more in calls than they save in scores.
_SHORTEST_PIECE = 64


@dataclass(frozen=True, eq=False)
class Band:
    """A stack of `pieces` with `length` queries each, and `history` more keys, which lie before the first query."""

    pieces: int
    length: int
    history: int
    mask: Tensor  # bool [1 or pieces, 1, length, history + length], True = may attend
    is_causal: bool  # the mask says no more than that


@dataclass(frozen=True, eq=False)
class Bands:
    """Where each token of [B * T] goes: as a query into one place, as a key into its piece's and the next one's."""

    bands: tuple[Band, ...]
    take: Tensor  # [places of queries] -> token of the batch
    give: Tensor  # [B * T] -> place of the query
    padding: Tensor  # places of queries that hold no token
    keys: Reuse | None  # to places of keys; None: the same as of the queries


class _Piece(NamedTuple):
    """Queries of one document, and the keys that lie before them: tokens counted over the flattened batch."""

    first: int
    length: int
    before: int  # the first of the earlier keys
    history: int  # how many there are


def build_bands(
    starts: Sequence[int], lengths: Sequence[int], window: int | None, branches: Branches | None = None
) -> Bands:
    """Cut documents into pieces, stack pieces of similar length."""
    groups = _groups(starts, lengths, window, branches)
    takes, pads, keys, owns, extras, bands = [], [], [], [], [], []
    for group in groups:
        length, history = max(piece.length for piece in group), max(piece.history for piece in group)
        first, size, before, held = torch.tensor(group).t()[..., None]  # [pieces, 1] each
        step = torch.arange(-history, length)[None]  # [1, history + length], 0 at the first query
        # Earlier keys stand right before the queries; a piece that has fewer begins with padding.
        tokens = torch.where(step < 0, before + (step + held).clamp_min(0), first + torch.minimum(step, size - 1))
        own = (step >= 0) & (step < size)
        keys.append(tokens.view(-1))
        owns.append(own.view(-1))
        extras.append(((step < 0) & (step >= -held)).view(-1))
        takes.append(tokens[:, history:].reshape(-1))
        pads.append(~own[:, history:].reshape(-1))
        mask = _band_mask(length, history, window)
        if any(piece.history < history for piece in group):
            mask = mask & (step >= -held)[:, None, None]
        bands.append(Band(len(group), length, history, mask, history == 0 and (window is None or length <= window)))
    take, is_padding = torch.cat(takes), torch.cat(pads)
    real = (~is_padding).nonzero().view(-1)
    give = torch.empty_like(real)
    give[take[real]] = real
    has_history = any(band.history for band in bands)
    reuse = build_reuse(torch.cat(keys), torch.cat(owns), torch.cat(extras)) if has_history else None
    return Bands(tuple(bands), take, give, is_padding.nonzero().view(-1), reuse)


def _groups(
    starts: Sequence[int], lengths: Sequence[int], window: int | None, branches: Branches | None
) -> list[list[_Piece]]:
    """Pieces of similar length, with as many keys before them; or, where a branch begins, about as many."""
    plain: list[_Piece] = []
    continued: list[_Piece] = []
    for document, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        pieces = _pieces(start, length, window)
        prefix = 0 if branches is None else branches.prefixes[document]
        if branches is not None and prefix:
            history = prefix if window is None else min(prefix, window - 1)
            before = starts[branches.trunks[document]] + prefix - history
            # Later pieces are longer than their history: they do not reach the trunk.
            continued.append(next(pieces)._replace(before=before, history=history))
        plain += pieces
    groups: list[list[_Piece]] = []
    for piece in sorted(plain, key=lambda piece: (piece.history, -piece.length)):
        if groups and groups[-1][0].history == piece.history and similar(piece.length, groups[-1][0].length):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups + _group_continued(continued)


def _group_continued(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Longest first, each into the first group in which it pads little."""
    groups: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.length, -piece.history)):
        for group in groups:
            longest = max(one.history for one in group)
            near = similar(piece.history, longest) and similar(longest, piece.history)
            if near and similar(piece.length, group[0].length):
                group.append(piece)
                break
        else:
            groups.append([piece])
    return groups


def _pieces(start: int, length: int, window: int | None) -> Iterator[_Piece]:
    """The pieces of one document. A piece is at least as long as what it looks back on."""
    if window is None:
        yield _Piece(start, length, start, 0)
        return
    longest = max(window, _SHORTEST_PIECE)
    for first in range(0, length, longest):
        history = window - 1 if first else 0
        yield _Piece(start + first, min(longest, length - first), start + first - history, history)


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
    if bands.keys is None:
        return stack(tokens, bands.take, bands.give)
    return reuse_tokens(tokens, bands.keys)


def _attend_band(q: Tensor, k: Tensor, v: Tensor, band: Band, sinks: Tensor | None, softcap: float | None) -> Tensor:
    if sinks is not None or softcap is not None:
        return attend_scored(q, k, v, band.mask, sinks, softcap)
    grouped = q.shape[1] != k.shape[1]
    if band.is_causal:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=band.mask, enable_gqa=grouped)

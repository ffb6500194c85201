"""Attention in one function, and `Layout`, which says who sees whom in a batch of packed rows.

A row holds whole documents end to end; a token sees itself and the earlier tokens of its own document, nothing else
(but for documents that share a prompt: `branches.py`).
`Layout` is built once per batch, on the CPU; what a back-end needs (index, mask, offsets) is made once and kept in
it, so that no layer pays for it again. A layer may narrow that to a sliding window, add attention sinks, or cap its
scores. Back-ends: `stacks.py` and, with any of these, `banded.py` (CPU), `varlen.py` and `flex.py` (CUDA), plain
causal, and the mask, which does everything everywhere. Limit: the CUDA back-ends have not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from luopan.model.banded import Bands, attend_banded, build_bands
from luopan.model.branches import Branches, find_branches
from luopan.model.flex import attend_flex, build_block_mask, flex_runs_on
from luopan.model.scored import attend_scored
from luopan.model.stacks import Stacks, attend_stacked, build_stacks
from luopan.model.varlen import VarlenKeys, attend_varlen, build_varlen_keys, moved, varlen_runs_on


class KeyValueCache(Protocol):
    """What attention asks of a cache while decoding (implemented by the inference engine)."""

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values [B, Hkv, T, D] of the newest tokens; return all that are held, [B, Hkv, S, D]."""
        ...

    def mask(self, length: int, window: int | None = None) -> Tensor:
        """Which held keys the `length` newest tokens may see: bool [B, 1, length, S], True = may attend.

        With a `window` only the `window` latest tokens before and including each.
        """
        ...


@dataclass(frozen=True, eq=False)
class Layout:
    """Who sees whom in a batch [B, T]: the documents of each row, and the position of each token in its document.

    Padding is a document of its own (or several): it sees itself, nobody else sees it, and its output is ignored.
    """

    shape: tuple[int, int]
    starts: tuple[int, ...]  # first token of each document, counted over the flattened batch
    lengths: tuple[int, ...]  # tokens of each document
    position_ids: Tensor  # [B, T] int64, restarting at each document; a branch goes on where it leaves its trunk
    document_index: Tensor  # [B, T] int64, 0.. over the batch, a padding run counted as a document
    offsets: Tensor  # [documents + 1] int32, starts and the end
    real: Tensor | None = None  # [B, T] bool, False on padding; None: there is no padding
    branches: Branches | None = None  # documents that share the beginning of another
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def packed(document_ids: Tensor, prefixes: Sequence[int] = ()) -> Layout:
        """document_ids [B, T]: a contiguous run of one id in a row is one document, -1 is padding.

        `prefixes`, if there are any, has a number for each document, in order, padding left out: how many tokens it
        continues of the nearest earlier document of its row whose own number is 0.

        Built on the CPU and moved to where document_ids is; ids on an accelerator are read back (a synchronisation),
        so build it from CPU ids and call `.to(device)`.
        """
        assert document_ids.ndim == 2 and document_ids.numel(), document_ids.shape
        ids = document_ids.cpu()
        begins = torch.ones_like(ids, dtype=torch.bool)
        torch.ne(ids[:, 1:], ids[:, :-1], out=begins[:, 1:])
        real = ids >= 0
        layout = _from_begins(begins, None if bool(real.all()) else real)
        if any(prefixes):
            layout = _with_branches(layout, prefixes)
        return layout.to(document_ids.device)

    @staticmethod
    def causal(batch: int, length: int, device: torch.device | str = "cpu") -> Layout:
        """One document per row."""
        rows = torch.arange(batch, device=device)
        return Layout(
            shape=(batch, length),
            starts=tuple(range(0, batch * length, length)),
            lengths=(length,) * batch,
            position_ids=torch.arange(length, device=device).expand(batch, length),
            document_index=rows[:, None].expand(batch, length),
            offsets=torch.arange(0, batch * length + 1, length, dtype=torch.int32, device=device),
        )

    @property
    def device(self) -> torch.device:
        return self.position_ids.device

    @property
    def is_causal(self) -> bool:
        """Whether every row is one document, so that plain causal attention is exact."""
        return len(self.starts) == self.shape[0]

    def to(self, device: torch.device | str) -> Layout:
        """The same layout with its tensors on `device`; itself if they are there already."""
        if torch.device(device) == self.device:
            return self
        tensors = {name: getattr(self, name).to(device) for name in ("position_ids", "document_index", "offsets")}
        real = None if self.real is None else self.real.to(device)
        branches = None if self.branches is None else self.branches.to(torch.device(device))
        return replace(self, **tensors, real=real, branches=branches, _made={})

    @property
    def longest(self) -> int:
        """Tokens of the longest document, those that it shares with another included."""
        if "longest" not in self._made:
            shared = (0,) * len(self.lengths) if self.branches is None else self.branches.prefixes
            self._made["longest"] = max(map(sum, zip(self.lengths, shared, strict=True)))
        return self._made["longest"]

    def mask(self, window: int | None = None) -> Tensor:
        """bool [B, 1, T, T], True = may attend. The reference, and the fallback; T^2 memory."""
        if ("mask", window) not in self._made:
            same = self.document_index[:, :, None] == self.document_index[:, None, :]
            mask = same.tril_() if window is None else same.tril_().triu_(1 - window)
            if self.branches is not None:
                mask |= self._shared(self.branches, window)
            self._made["mask", window] = mask[:, None]
        return self._made["mask", window]

    def _shared(self, branches: Branches, window: int | None) -> Tensor:
        """bool [B, T, T]: what branches see of their trunks."""
        of_trunk = branches.trunk_index[:, :, None] == self.document_index[:, None, :]
        shared = of_trunk & (self.position_ids[:, None, :] < branches.prefix[:, :, None])
        if window is None:
            return shared
        return shared & (self.position_ids[:, :, None] - self.position_ids[:, None, :] < window)

    def stacks(self) -> Stacks:
        """Where tokens go in the stacked back-end (CPU), which knows no branches."""
        assert self.branches is None, "the stacked back-end knows no shared prompts"
        if "stacks" not in self._made:
            self._made["stacks"] = build_stacks(self.starts, self.lengths)
        return self._made["stacks"]

    def bands(self, window: int | None) -> Bands:
        """Where tokens go in the banded back-end (CPU)."""
        if ("bands", window) not in self._made:
            self._made["bands", window] = build_bands(self.starts, self.lengths, window, self.branches)
        return self._made["bands", window]

    def block_mask(self, window: int | None) -> Any:
        """Which blocks of scores FlexAttention computes (CUDA)."""
        if ("blocks", window) not in self._made:
            made = build_block_mask(self.document_index, window, self.branches, self.position_ids)
            self._made["blocks", window] = made
        return self._made["blocks", window]

    def varlen_keys(self) -> VarlenKeys | None:
        """Which keys each document sees, where there are branches (CUDA)."""
        if self.branches is None:
            return None
        if "keys" not in self._made:
            self._made["keys"] = moved(build_varlen_keys(self.starts, self.lengths, self.branches), self.device)
        return self._made["keys"]


def _from_begins(begins: Tensor, real: Tensor | None) -> Layout:
    batch, length = begins.shape
    columns = torch.arange(length).expand(batch, length)
    latest = torch.where(begins, columns, 0).cummax(1).values
    starts = begins.view(-1).nonzero().view(-1)
    offsets = torch.cat([starts, torch.tensor([batch * length])])
    return Layout(
        shape=(batch, length),
        starts=tuple(starts.tolist()),
        lengths=tuple(offsets.diff().tolist()),
        position_ids=columns - latest,
        document_index=begins.view(-1).cumsum(0).view(batch, length) - 1,
        offsets=offsets.to(torch.int32),
        real=real,
    )


def _with_branches(layout: Layout, prefixes: Sequence[int]) -> Layout:
    """`prefixes` of the documents without padding runs, of a layout on the CPU."""
    given = iter(prefixes)
    real = [layout.real is None or bool(layout.real.view(-1)[start]) for start in layout.starts]
    assert sum(real) == len(prefixes), f"{len(prefixes)} prefixes for {sum(real)} documents"
    every = [next(given) if holds else 0 for holds in real]
    branches = find_branches(every, layout.starts, layout.lengths, layout.shape[1])
    if branches is None:
        return layout
    return replace(layout, branches=branches, position_ids=layout.position_ids + branches.prefix, _made={})


def choose_backend(query: Tensor, layout: Layout, *, window: int | None = None, scored: bool = False) -> str:
    """The fastest exact back-end for these queries.

    "causal", "stacked" and "banded" (CPU), "varlen" (CUDA, half), "flex" (CUDA) or "masked". `window` is None where
    no document is longer; `scored` says that there are sinks or a soft cap. Shared prompts need "banded" on the CPU.

    Forward + backward of attention alone, fp32, ms of processor time, one thread, best of 20 on a shared machine
    (AVX-512 EPYC, torch 2.13); "causal" lets documents see each other and is here as a yardstick only:

    | B, T, H / Hkv, D, documents per row | causal | masked | one call per document | stacked |
    |---|---|---|---|---|
    | 16, 256, 4 / 4, 32, 5               | 30.4 | 32.1 | 22.2 | 21.5 |
    | 16, 256, 4 / 4, 32, 10              | 30.5 | 32.4 | 22.2 | 17.9 |
    | 16, 256, 4 / 2, 32, 10              | 30.0 | 31.9 | 21.9 | 17.9 |
    """
    if layout.is_causal and window is None and not scored:
        return "causal"
    if query.device.type == "cpu":
        return "banded" if scored or window is not None or layout.branches is not None else "stacked"
    if scored:
        return "flex" if flex_runs_on(query) else "masked"
    return "varlen" if varlen_runs_on(query) else "masked"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Layout | Tensor,
    backend: str | None = None,
    *,
    window: int | None = None,
    sinks: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Softmax attention, scaled by 1/sqrt(D): query [B, H, T, D], key and value [B, Hkv, S, D] -> [B, H, T, D].

    `visible` is a Layout (S = T), or a mask [B, 1, T, S], bool with True = may attend or added to the scores.
    A row of a mask that sees nothing gives numbers without meaning. `window`: a token sees so many tokens back, itself
    included (belongs to a Layout; a mask says itself what is visible). `sinks` [H]: logits that take part in the
    softmax and carry no value. `softcap` c: scaled scores s become c tanh(s / c).
    """
    if isinstance(visible, Tensor):
        assert window is None, "a mask holds the window already"
        return _attend_masked(query, key, value, visible, sinks, softcap)
    if window is not None and window >= visible.longest:
        window = None
    scored = sinks is not None or softcap is not None
    backend = backend or choose_backend(query, visible, window=window, scored=scored)
    if backend == "masked":
        return _attend_masked(query, key, value, visible.mask(window), sinks, softcap)
    if backend == "banded":
        return attend_banded(query, key, value, visible.bands(window), sinks, softcap)
    if backend == "flex":
        return attend_flex(query, key, value, visible.block_mask(window), sinks, softcap)
    assert not scored, f"back-end {backend!r} knows neither sinks nor soft caps"
    if backend == "varlen":
        keys = visible.varlen_keys()
        longest = visible.longest if keys is None else max(visible.lengths)
        return attend_varlen(query, key, value, visible.offsets, longest, window, keys)
    assert window is None, f"back-end {backend!r} knows no windows"
    if backend == "causal":
        assert visible.is_causal, "plain causal attention would let documents see each other"
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    assert backend == "stacked", backend
    return attend_stacked(query, key, value, visible.stacks())


def _attend_masked(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, sinks: Tensor | None, softcap: float | None
) -> Tensor:
    if sinks is not None or softcap is not None:
        return attend_scored(query, key, value, mask, sinks, softcap)
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    if heads == kv_heads:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    if length == 1:
        # The query heads of a group are as good as so many queries of one head: no key is copied.
        folded = query.reshape(batch, kv_heads, heads // kv_heads, size)
        return F.scaled_dot_product_attention(folded, key, value, attn_mask=mask).reshape(query.shape)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

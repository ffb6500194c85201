"""Keys and values of the tokens decoded so far: a slot per running request, and a box for prompts being read.

`SlotCache` is one preallocated block per layer, written in place; the running requests always fill slots 0..n-1, so
what attention reads is a view and never a copy. Prompts are read (several at once, padded on the right) into a
`PromptCache` and then moved into slots; equal prompts are read once and copied.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

# Room is added in steps of at least this many positions.
_GRANULE = 64
UNBOUNDED = sys.maxsize
# So much is set aside at once without asking whether it will be used: memory never touched costs nothing on a CPU, and
# growing means copying (fresh memory costs 1 ms per MB here, most of it page faults).
_PREALLOCATED_BYTES = 2**28


def grown(have: tuple[int, int], slots: int, positions: int, most: int = UNBOUNDED) -> tuple[int, int]:
    """(slots, positions) of a block that holds so many of so many, grown by half or more where it grows, and of no more
    than `most` positions in all, but for what is asked. More of one may mean fewer of the other."""
    old_slots, room = have
    if positions > room:
        room = max(-(-positions // _GRANULE) * _GRANULE, room * 3 // 2)
    room = max(positions, min(room, most // max(1, slots)))
    wide = old_slots if slots <= old_slots else max(slots, 2 * old_slots)
    return max(slots, min(wide, most // room)), room


class PromptCache:
    """Holds the keys and values [B, Hkv, T, D] of prompts padded on the right, read in one pass or piece by piece.

    A real token only sees real tokens before it, so causal attention needs no padding mask; what the padding yields is
    never read.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the layer's new keys and values; all there are, to attend to."""
        if layer == len(self.keys):
            self.keys.append(keys)
            self.values.append(values)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], keys], 2)
            self.values[layer] = torch.cat([self.values[layer], values], 2)
        return self.keys[layer], self.values[layer]

    def mask(self, length: int, window: int | None = None) -> Tensor:
        """bool [1, 1, T, S]: so many new tokens over all there will be, causal, no more than `window` back."""
        before = self.keys[0].shape[2] if self.keys else 0
        mask = torch.ones(length, before + length, dtype=torch.bool, device=self._device).tril_(before)
        return (mask if window is None else mask.triu_(before + 1 - window))[None, None]

    def expand(self, rows: int) -> None:
        """The one row there is, for so many."""
        for held in (self.keys, self.values):
            held[:] = [one.expand(rows, -1, -1, -1) for one in held]


class SlotCache:
    """A slot per running request, for one new token per request and step.

    Slots 0..active-1 run. `lengths` [slots] int64 counts the tokens each holds; `advance` adds one to each after a
    step. Positions beyond a request's length hold old or zero values, always finite ones. Memory is slots * capacity *
    layers * 2 * Hkv * D elements, the capacity growing with the longest request.
    """

    def __init__(
        self, num_layers: int, slots: int, kv_heads: int, head_size: int, *, device: torch.device, dtype: torch.dtype,
        most: int = UNBOUNDED,
    ) -> None:  # fmt: skip
        self._block = torch.empty(2, num_layers, 0, kv_heads, 0, head_size, device=device, dtype=dtype)
        self._most, self._expected = most, 0
        self._unbind()
        self.lengths = torch.zeros(slots, dtype=torch.int64, device=device)
        self.active = 0
        self._behind: list[int] = []  # how far each active slot is behind the longest; all 0: one copy does for all
        self._even = True
        self.longest = 0  # of the active slots; kept here because reading it back from `lengths` would wait for a GPU
        self._rows = torch.arange(slots, device=device)
        self._columns = torch.arange(0, device=device)

    @property
    def capacity(self) -> int:
        """Positions there is room for in each slot."""
        return self._block.shape[4]

    def expect(self, positions: int) -> None:
        """Prepare for requests of up to so many positions: all the room at once if it is not too much."""
        two, layers, _, heads, _, size = self._block.shape
        per_position = two * layers * len(self._rows) * heads * size * self._block.element_size()
        self._expected = min(positions, _PREALLOCATED_BYTES // per_position)

    def reserve(self, positions: int, slots: int = 0) -> None:
        """Make room for so many positions per slot, and for so many slots, keeping what is held."""
        have = (self._block.shape[2], self.capacity)
        slots = max(slots, self.active)
        if positions <= have[1] and slots <= have[0]:
            return
        hoped = 0 if have[1] else min(self._expected, self._most // max(1, slots))
        positions = max(positions, self.longest + 1 if self.active else 0, hoped)
        wide, room = grown(have, slots, positions, self._most)
        shape = list(self._block.shape)
        shape[2], shape[4] = min(wide, len(self._rows)), room
        # Zeros and not whatever is there: a masked key has weight 0, and 0 times NaN is NaN.
        block = self._block.new_zeros(shape)
        held = self.longest
        block[:, :, : self.active, :, :held] = self._block[:, :, : self.active, :, :held]
        self._block = block
        self._unbind()
        self._columns = torch.arange(room, device=block.device)

    def insert(self, prompts: PromptCache, source: list[int], lengths: list[int]) -> None:
        """Append len(lengths) requests: the i-th gets prompt row source[i], of which lengths[i] tokens are real."""
        self.reserve(max(lengths) + 1, self.active + len(lengths))
        first = self.active
        for row, group in groupby(source):
            # Requests with equal prompts stand together and are filled by one broadcast copy.
            last, length = first + len(list(group)), lengths[first - self.active]
            for layer, (keys, values) in enumerate(zip(prompts.keys, prompts.values)):
                self._keys[layer][first:last, :, :length] = keys[row, :, :length]
                self._values[layer][first:last, :, :length] = values[row, :, :length]
            first = last
        self.lengths[self.active : first] = torch.tensor(lengths, device=self.lengths.device)
        self.active = first
        held = [self.longest - behind for behind in self._behind] + lengths
        self.longest = max(held)
        self._note(held)

    def update(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values [B, Hkv, T, D] of the active slots' new tokens; views [B, Hkv, S, D] of all held."""
        count, reach = self.active, self.longest + keys.shape[2]
        held_keys, held_values = self._keys[layer], self._values[layer]
        if self._even:  # a slice costs a fifth of an index
            held_keys[:count, :, self.longest : reach] = keys
            held_values[:count, :, self.longest : reach] = values
            return held_keys[:count, :, :reach], held_values[:count, :, :reach]
        rows, positions = self._rows[:count, None], self.position_ids(keys.shape[2])
        held_keys[rows, :, positions] = keys.transpose(1, 2).to(held_keys.dtype)
        held_values[rows, :, positions] = values.transpose(1, 2).to(held_values.dtype)
        return held_keys[:count, :, :reach], held_values[:count, :, :reach]

    def mask(self, length: int, window: int | None = None) -> Tensor:
        """bool [B, 1, T, S]: each new token sees its request's own up to itself, the `window` latest of them.

        Keys outside the window stay held: what a window saves while decoding is not memory.
        """
        self.reserve(self.longest + length)
        columns, newest = self._columns[: self.longest + length], self.position_ids(length)[..., None]
        mask = columns <= newest
        return (mask if window is None else mask & (columns > newest - window))[:, None]

    def position_ids(self, length: int = 1) -> Tensor:
        """[B, T]: the positions of each request's next tokens."""
        following = self.lengths[: self.active, None]
        return following if length == 1 else following + torch.arange(length, device=following.device)

    def advance(self, count: int = 1) -> None:
        """Count the tokens that every active slot has just taken, and make room for the next."""
        self.lengths[: self.active] += count
        self.longest += count
        self.reserve(self.longest + 1)

    def rewind(self, slot: int, count: int) -> None:
        """Forget the last tokens of a slot."""
        if count:
            held = [self.longest - behind for behind in self._behind]
            held[slot] -= count
            self.lengths[slot] -= count
            self.longest = max(held)
            self._note(held)

    def reorder(self, source: Tensor) -> None:
        """Slot i becomes a copy of slot source[i], for all active slots, which hold the same number of tokens."""
        held = self._block[:, :, : self.active, :, : self.longest]
        held.copy_(held.index_select(2, source))

    def compact(self, source: Sequence[int], target: Sequence[int], active: int) -> None:
        """Copy slots `source` over slots `target` and keep the first `active`."""
        lengths = [self.longest - behind for behind in self._behind]
        for one, other in zip(source, target, strict=True):
            lengths[other] = lengths[one]
        del lengths[active:]
        self.active = active
        self.longest = max(lengths, default=0)
        self._note(lengths)
        if source:
            moved = torch.tensor([source, target], dtype=torch.int64, device=self.lengths.device)
            held = self._block[:, :, :, :, : self.longest]
            held[:, :, moved[1]] = held[:, :, moved[0]]
            self.lengths[moved[1]] = self.lengths[moved[0]]

    def _note(self, lengths: list[int]) -> None:
        self._behind = [self.longest - length for length in lengths]
        self._even = not any(self._behind)

    def _unbind(self) -> None:
        # Indexing the block anew in every layer of every step costs more than the copy it is for.
        keys, values = self._block.unbind(0)
        self._keys, self._values = keys.unbind(0), values.unbind(0)

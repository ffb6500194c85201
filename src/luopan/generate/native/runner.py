"""Requests on the compiled pass: each row is a slot of one block of keys and values, found by number and never moved.

What a slot held stays until it is needed again, and is known by its tokens: a prompt that begins alike (a system
prompt, the earlier turns of a conversation, the other samples of a group) takes those positions over, in place where
the slot is free, by copying where it runs. What is taken over are the numbers that reading would give, to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from luopan.generate.cache import UNBOUNDED, grown
from luopan.generate.native.binding import CompiledPass
from luopan.generate.runner import SHARED_AT_LEAST, common_prefix, same_beginning
from luopan.model.decoder import Decoder


@dataclass
class _Prompt:
    """A distinct prompt being read: its slot, how many of its tokens that holds, and the logits [V] after the last."""

    tokens: Sequence[int]
    slot: int
    done: int
    logits: Tensor | None = None


class NativeRunner:
    """See `generate.runner.Runner`. Memory: slots used at once * longest request * layers * 2 * Hkv * D * 4 bytes."""

    def __init__(self, model: Decoder, slots: int, positions: int, most: int = UNBOUNDED) -> None:
        config = model.config
        self._pass = CompiledPass(model)
        self._slots = slots
        self._shape = (2, config.num_hidden_layers, 0, config.kv_heads, 0, config.head_size)
        self._block = torch.empty(self._shape)
        self._expected, self._most = positions, most
        self._rows: list[int] = []  # the slot of each running row
        self._free: list[int] = []  # the longest unused first
        self._held: list[list[int]] = []  # the tokens whose keys and values a slot holds
        self._prompts: list[_Prompt] = []
        self._source: list[int] = []
        self._common = 0
        self.tokens_read = 0

    @property
    def active(self) -> int:
        """Rows that run."""
        return len(self._rows)

    def begin(self, prompts: Sequence[Sequence[int]], source: Sequence[int]) -> None:
        """See `Runner`."""
        assert not self._prompts
        self._source = list(source)
        self._reserve(len(source), max(map(len, prompts)) + 1)
        for prompt in prompts:
            tokens = list(prompt)
            best, shared = self._best_match(tokens)
            slot = best if shared and best in self._free else self._free[0]
            self._free.remove(slot)
            if shared and slot != best:
                self._copy(best, [slot], shared)
            self._held[slot] = tokens[:shared]
            self._prompts.append(_Prompt(tokens, slot, shared))
        common = common_prefix([prompt.tokens for prompt in self._prompts]) if len(prompts) > 1 else 0
        behind = sum(prompt.done + SHARED_AT_LEAST <= common for prompt in self._prompts)
        self._common = common if behind > 1 else 0

    def read(self, tokens: int) -> Tensor | None:
        """See `Runner`."""
        first = self._prompts[0]
        if first.done < self._common:
            count = min(tokens, self._common - first.done)
            self._feed([(first, count)])
            tokens -= count
            if first.done == self._common:
                self._share()
        pieces: list[tuple[_Prompt, int]] = []
        for prompt in self._prompts if first.done >= self._common else []:
            count = min(tokens, len(prompt.tokens) - prompt.done)
            if count > 0:
                pieces.append((prompt, count))
                tokens -= count
        if pieces:
            self._feed(pieces)
        done = [prompt.logits for prompt in self._prompts if prompt.logits is not None]
        return torch.stack(done) if len(done) == len(self._prompts) else None

    def abandon(self) -> None:
        """See `Runner`."""
        self._free += [prompt.slot for prompt in self._prompts]
        self._prompts = []

    def admit(self) -> None:
        """See `Runner`."""
        given: set[int] = set()
        for place in self._source:
            prompt = self._prompts[place]
            slot = prompt.slot
            if place in given:  # another request with an equal prompt
                slot = self._free.pop(0)
                self._copy(prompt.slot, [slot], prompt.done)
            given.add(place)
            self._held[slot] = list(prompt.tokens)
            self._rows.append(slot)
        self._prompts = []

    def decode(self, tokens: Tensor) -> Tensor:
        """See `Runner`."""
        return self._follow([[token] for token in tokens.tolist()])

    def extend(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Runner`."""
        return list(self._follow(tokens).split([len(row) for row in tokens]))

    def rewind(self, row: int, count: int) -> None:
        """See `Runner`."""
        held = self._held[self._rows[row]]
        del held[len(held) - count :]

    def _follow(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Feed each row its tokens: logits [how many, V]."""
        self._reserve(0, max(len(self._held[slot]) + len(row) for slot, row in zip(self._rows, tokens)))
        fed: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        for slot, row in zip(self._rows, tokens, strict=True):
            held = self._held[slot]
            places += range(len(held), len(held) + len(row))
            slots += [slot] * len(row)
            fed += row
            held += row
        keys, values = self._block
        return self._pass(keys, values, fed, slots, places, range(len(fed)))

    def compact(self, source: Sequence[int], target: Sequence[int], active: int) -> None:
        """See `Runner`."""
        before = self._rows[:]
        for one, other in zip(source, target, strict=True):
            self._rows[other] = before[one]
        del self._rows[active:]
        kept = set(self._rows)
        self._free += [slot for slot in before if slot not in kept]

    def _feed(self, pieces: Sequence[tuple[_Prompt, int]]) -> None:
        """Read so many tokens of each prompt in one pass; keep the logits after those that are through."""
        tokens: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        ended: list[_Prompt] = []
        wanted: list[int] = []
        for prompt, count in pieces:
            end = prompt.done + count
            tokens += prompt.tokens[prompt.done : end]
            slots += [prompt.slot] * count
            places += range(prompt.done, end)
            self._held[prompt.slot] = list(prompt.tokens[:end])
            prompt.done = end
            if end == len(prompt.tokens):
                ended.append(prompt)
                wanted.append(len(tokens) - 1)
        keys, values = self._block
        logits = self._pass(keys, values, tokens, slots, places, wanted)
        for prompt, row in zip(ended, logits, strict=True):
            prompt.logits = row
        self.tokens_read += len(tokens)

    def _share(self) -> None:
        """Give what the first prompt has read of the common beginning to those that have less of it."""
        first, *others = self._prompts
        behind = [prompt for prompt in others if prompt.done < self._common]
        self._copy(first.slot, [prompt.slot for prompt in behind], self._common)
        for prompt in behind:
            prompt.done = self._common
            self._held[prompt.slot] = list(prompt.tokens[: self._common])

    def _best_match(self, tokens: list[int]) -> tuple[int, int]:
        """The slot that holds the longest beginning of these tokens, and how much; (0, 0) where it is too short."""
        matches = [(same_beginning(tokens, held, len(tokens) - 1), slot) for slot, held in enumerate(self._held)]
        shared, slot = max(matches, default=(0, 0))
        return (slot, shared) if shared >= SHARED_AT_LEAST else (0, 0)

    def _copy(self, source: int, target: list[int], count: int) -> None:
        held = self._block[:, :, source, :, :count]
        for slot in target:
            self._block[:, :, slot, :, :count] = held

    def _reserve(self, more: int, positions: int) -> None:
        """Room for so many more slots and for so many positions in each, keeping what is held."""
        have = (self._block.shape[2], self._block.shape[4])
        # Requests with equal prompts share one slot while it is read; theirs are spoken for all the same.
        used = len(self._rows) + (len(self._source) if self._prompts else 0)
        if used + more <= have[0] and positions <= have[1]:
            return
        # With more positions there may be fewer slots: those in use come first, then what was used last.
        busy = [*self._rows, *(prompt.slot for prompt in self._prompts)]
        positions = max([positions, *(len(self._held[slot]) + 1 for slot in busy)])
        hoped = 0 if have[1] else min(self._expected, self._most // (used + more))  # what is never touched is free
        wanted = max(positions, hoped)
        wide, room = grown(have, used + more, wanted, self._most)
        kept = [*busy, *reversed(self._free)][: min(wide, self._slots)]
        block = torch.empty(*self._shape[:2], min(wide, self._slots), self._shape[3], room, self._shape[5])
        for new, old in enumerate(kept):
            count = min(len(self._held[old]), room)
            block[:, :, new, :, :count] = self._block[:, :, old, :, :count]
        place = {old: new for new, old in enumerate(kept)}
        self._rows = [place[slot] for slot in self._rows]
        for prompt in self._prompts:
            prompt.slot = place[prompt.slot]
        self._held = [self._held[old][:room] for old in kept] + [[] for _ in range(block.shape[2] - len(kept))]
        fresh = range(len(kept), block.shape[2])
        self._free = [*fresh, *(place[slot] for slot in self._free if slot in place)]
        self._block = block

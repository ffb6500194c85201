"""What a session runs on: the model's passes and the keys and values they leave, one slot per running request.

Two of them do the same: `TorchRunner` through torch's operations, anywhere; `native.runner.NativeRunner` through the
compiled pass, on a CPU in fp32, several times as fast for small models. A prompt is read in pieces, so that those that
run go on between them, and what its beginning has in common with others is read once: with the prompts it came together
with, with requests that run, and (compiled pass) with what ended slots still hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from luopan.generate.cache import PromptCache, SlotCache
from luopan.model.decoder import Decoder

# Beginnings shorter than this are not worth the copying.
SHARED_AT_LEAST = 16


class Runner(Protocol):
    """Requests fill rows 0..active-1; what is being read is in none yet."""

    @property
    def active(self) -> int:
        """How many run."""

    def begin(self, prompts: Sequence[Sequence[int]], source: Sequence[int]) -> None:
        """Start reading: distinct prompts, and for each new request which of them it has."""

    def read(self, tokens: int) -> Tensor | None:
        """Read on by about so many tokens; with the last of them the logits [u, V] after each distinct prompt."""

    def abandon(self) -> None:
        """Read no further; nobody waits for it."""

    def admit(self) -> None:
        """What has been read becomes running rows, behind the others, in the order of `source`."""

    def decode(self, tokens: Tensor) -> Tensor:
        """Feed each running row its token [active]: logits [active, V]."""

    def extend(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """Feed each running row some tokens, one at least: logits [n, V] after each of a row's n."""

    def rewind(self, row: int, count: int) -> None:
        """Forget the last `count` tokens that a row was fed."""

    def compact(self, source: Sequence[int], target: Sequence[int], active: int) -> None:
        """Rows `source` take the places `target`; the first `active` stay."""

    @property
    def tokens_read(self) -> int:
        """How many prompt tokens have gone through the model so far; those copied are not among them."""


class TorchRunner:
    """By way of `Decoder.hidden` and the caches of `generate.cache`; on every device, for every model."""

    def __init__(self, model: Decoder, cache: SlotCache, pad_id: int) -> None:
        self.model, self.cache, self.pad_id = model, cache, pad_id
        self.device = next(model.parameters()).device
        self.tokens_read = 0
        self._prompts: list[Sequence[int]] = []
        self._source: list[int] = []
        self._reading: PromptCache | None = None
        self._done = self._common = 0
        self._last: Tensor | None = None  # [u, C], where each prompt's last token came out

    @property
    def active(self) -> int:
        """Rows that run."""
        return self.cache.active

    def begin(self, prompts: Sequence[Sequence[int]], source: Sequence[int]) -> None:
        """See `Runner`."""
        assert self._reading is None
        self._prompts, self._source = list(prompts), list(source)
        self._reading, self._done, self._last = PromptCache(self.device), 0, None
        # The last token of every prompt is read with the rest, where its logits are wanted.
        shared = common_prefix(prompts) if len(prompts) > 1 else 0
        self._common = shared if shared >= SHARED_AT_LEAST else 0

    def read(self, tokens: int) -> Tensor | None:
        """See `Runner`."""
        assert self._reading is not None
        while True:
            rows = self._prompts[:1] if self._done < self._common else self._prompts
            end = self._common if self._done < self._common else max(map(len, rows))
            width = min(end - self._done, max(1, tokens // len(rows)))
            hidden = self._piece(rows, width)
            self._note_ends(hidden, rows, width)
            self._done += width
            if self._done == self._common:
                self._reading.expand(len(self._prompts))
                tokens -= width
                if tokens > 0:
                    continue
            break
        if self._done < max(map(len, self._prompts)):
            return None
        assert self._last is not None
        return self.model.logits(self._last)

    def abandon(self) -> None:
        """See `Runner`."""
        self._reading = self._last = None

    def admit(self) -> None:
        """See `Runner`."""
        assert self._reading is not None
        self.cache.insert(self._reading, self._source, [len(self._prompts[place]) for place in self._source])
        self._reading = self._last = None

    def decode(self, tokens: Tensor) -> Tensor:
        """See `Runner`."""
        hidden = self.model.hidden(tokens[:, None], self.cache.position_ids(), cache=self.cache)  # [n, 1, C]
        self.cache.advance()
        return self.model.logits(hidden[:, 0])

    def extend(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """See `Runner`."""
        width = max(map(len, tokens))
        ids = [[*row, *[self.pad_id] * (width - len(row))] for row in tokens]
        positions = self.cache.position_ids(width)
        hidden = self.model.hidden(torch.tensor(ids, device=self.device), positions, cache=self.cache)
        self.cache.advance(width)
        for row, fed in enumerate(tokens):
            self.cache.rewind(row, width - len(fed))
        return [self.model.logits(hidden[row, : len(fed)]) for row, fed in enumerate(tokens)]

    def rewind(self, row: int, count: int) -> None:
        """See `Runner`."""
        self.cache.rewind(row, count)

    def compact(self, source: Sequence[int], target: Sequence[int], active: int) -> None:
        """See `Runner`."""
        self.cache.compact(source, target, active)

    def _piece(self, rows: Sequence[Sequence[int]], width: int) -> Tensor:
        """Positions done..done+width of the rows, padded on the right: [len(rows), width, C]."""
        pieces = [list(prompt[self._done : self._done + width]) for prompt in rows]
        ids = torch.tensor([[*p, *[self.pad_id] * (width - len(p))] for p in pieces], device=self.device)
        places = torch.arange(self._done, self._done + width, device=self.device).expand(ids.shape)
        self.tokens_read += sum(map(len, pieces))
        return self.model.hidden(ids, places, cache=self._reading)

    def _note_ends(self, hidden: Tensor, rows: Sequence[Sequence[int]], width: int) -> None:
        """Keep what came out of each prompt's last token, if it was in this piece."""
        if self._last is None:
            self._last = hidden.new_zeros(len(self._prompts), hidden.shape[-1])
        ended = [row for row, prompt in enumerate(rows) if self._done < len(prompt) <= self._done + width]
        if ended:
            index = torch.tensor(ended, device=self.device)
            place = torch.tensor([len(rows[row]) - 1 - self._done for row in ended], device=self.device)
            self._last[index] = hidden[index, place]


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all have in common, at most all but one of the shortest."""
    listed = [list(prompt) for prompt in prompts]
    # In lexical order: what the first and the last share, all share.
    return same_beginning(min(listed), max(listed), min(map(len, prompts)) - 1)


def same_beginning(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many first tokens two sequences share, at most `most`."""
    one, other = list(one), list(other)
    low, high = 0, max(0, min(most, len(one), len(other)))
    while low < high:  # slices are compared in C; a loop over tokens is slow
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

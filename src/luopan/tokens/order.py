"""Data order: which tokens are the n-th sequence of a run.

A pure function of (seed, mixture, n): how many processes there are, how large a batch is or where a run was cut
off has no say in it, so the whole state of a data loader is one integer. Resuming, changing the number of ranks and
skipping a bad stretch are arithmetic on n.

Each source is an endless stream: its documents in one random order, then all of them again in a fresh order, and
so on. A row is T tokens in a row of such a stream; the next row begins at the last token of this one, so that
each token is a target exactly once an epoch, but for the first of each document, which has nothing before it.
Rows take turns between sources so that after any n rows every source is within one row (a few, with many
sources) of its share.

Limits: a permutation of the document numbers of a source is held in memory (16 bytes a document, two epochs), and
a document that a row border cuts goes on in another row without its beginning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from luopan.errors import DataError

_UNITS = 1 << 40  # shares are whole numbers of these, so that counting rows is exact however long the run


@dataclass(frozen=True)
class Piece:
    """Tokens `start` to `stop` of document number `document` of a source."""

    document: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class RowPlan:
    """Row n of a run: pieces of one source, laid end to end."""

    source: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Consumed:
    """What the first n rows took from a source; `epochs` counts how often its tokens were targets, on average."""

    rows: int
    tokens: int
    epochs: float


def permutation(size: int, *key: object) -> np.ndarray:
    """A random order of 0..size-1 that depends on `key` alone.

    Sorts raw Philox output: numpy promises that this stream stays as it is, which it does not for its shuffles.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    draws = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(size)
    return np.argsort(draws, kind="stable")


class DataOrder:
    """The order of a run over several token sources.

    `lengths`: for each source the tokens in each of its documents. `weights`: each source's part of the tokens trained
    on, in any unit; left out, sources get their own size, so each is seen equally often.
    Raises DataError for sources without tokens and for weights that are not positive or name no source.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        weights: Mapping[str, float] | None,
        sequence_length: int,
        seed: int,
    ) -> None:
        if sequence_length < 2:
            raise DataError(f"a sequence of {sequence_length} tokens has nothing to predict", hint="use 2 or more")
        self.sequence_length = sequence_length
        self.seed = seed
        self._lengths = {name: np.asarray(values, dtype=np.int64) for name, values in lengths.items()}
        self._tokens = {name: int(values.sum()) for name, values in self._lengths.items()}
        for name, values in self._lengths.items():
            if not self._tokens[name] or values.min() < 1:
                raise DataError(f"source {name!r} has no tokens, or a document without any")
        self._shares = _shares(self._tokens if weights is None else weights, list(self._lengths))
        self._epoch = lru_cache(maxsize=2 * len(self._lengths))(self._shuffled)

    @property
    def stride(self) -> int:
        """Fresh tokens in a row: each row repeats the last token of the one before it in its source."""
        return self.sequence_length - 1

    def locate(self, n: int) -> tuple[str, int]:
        """The source of row `n`, and how many rows of that source come before it."""
        before, after = self._rows_before(n), self._rows_before(n + 1)
        for name, count in after.items():
            if count > before[name]:
                return name, before[name]
        raise AssertionError("every row belongs to a source")

    def row(self, n: int) -> RowPlan:
        """What row `n` holds: exactly `sequence_length` tokens."""
        name, index = self.locate(n)
        epoch, offset = divmod(index * self.stride, self._tokens[name])
        pieces: list[Piece] = []
        missing = self.sequence_length
        while missing:
            documents, ends = self._epoch(name, epoch)
            k = int(np.searchsorted(ends, offset, side="right"))
            while missing and k < len(documents):
                document, length = int(documents[k]), int(self._lengths[name][documents[k]])
                start = offset - (int(ends[k]) - length)
                stop = min(length, start + missing)
                pieces.append(Piece(document, start, stop))
                missing -= stop - start
                offset += stop - start
                k += 1
            epoch, offset = epoch + 1, 0
        return RowPlan(name, tuple(pieces))

    def consumed(self, n: int) -> dict[str, Consumed]:
        """What the first `n` rows took from each source."""
        return {
            name: Consumed(rows, rows * self.stride, rows * self.stride / self._tokens[name])
            for name, rows in self._rows_before(n).items()
        }

    def rows_per_epoch(self) -> dict[str, float]:
        """Rows of each source until all of its tokens were seen once."""
        return {name: tokens / self.stride for name, tokens in self._tokens.items()}

    def _rows_before(self, n: int) -> dict[str, int]:
        """How many of the first `n` rows belong to each source.

        Source 1 takes its rounded share of n, source 2 its rounded share of what is left, and so on: each count rises
        by 0 or 1 from n to n + 1, and they add up to n, so exactly one source has row n.
        """
        counts: dict[str, int] = {}
        left, units = n, sum(self._shares.values())
        for name, share in self._shares.items():
            counts[name] = (2 * left * share + units) // (2 * units) if units > share else left
            left -= counts[name]
            units -= share
        return counts

    def _shuffled(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of a source in the order of an epoch, and where each ends in the stream of that epoch."""
        documents = permutation(len(self._lengths[name]), "documents", self.seed, name, epoch)
        return documents, np.cumsum(self._lengths[name][documents])


class PackedOrder:
    """The order of a run over rows that are packed already (conversations): a fresh permutation every epoch."""

    def __init__(self, num_rows: int, seed: int, name: str = "rows") -> None:
        if num_rows < 1:
            raise DataError("there are no rows to train on")
        self.num_rows = num_rows
        self._epoch = lru_cache(maxsize=2)(lambda epoch: permutation(num_rows, "rows", seed, name, epoch))

    def row(self, n: int) -> int:
        """Which packed row is the n-th of the run."""
        epoch, place = divmod(n, self.num_rows)
        return int(self._epoch(epoch)[place])

    def epochs(self, n: int) -> float:
        """How often the first `n` rows have seen each packed row, on average."""
        return n / self.num_rows


def _shares(weights: Mapping[str, float], names: list[str]) -> dict[str, int]:
    """Weights as whole units of `_UNITS`; sources in the given order."""
    if not names:
        raise DataError("there is no token source to train on")
    if set(weights) != set(names):
        odd = sorted(set(weights) ^ set(names))
        raise DataError(f"weights and sources differ in {', '.join(odd)}", hint=f"sources: {', '.join(names)}")
    for name, weight in weights.items():
        if not (weight > 0 and weight < float("inf")):
            raise DataError(
                f"the weight of {name!r} is {weight}", hint="weights are positive; leave a source out instead"
            )
    total = float(sum(weights.values()))
    return {name: max(1, round(weights[name] / total * _UNITS)) for name in names}

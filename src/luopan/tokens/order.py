"""Data order: which tokens are the n-th sequence of a run.

A pure function of (seed, mixture, n): how many processes there are, how large a batch is or where a run was cut
off has no say in it, so the whole state of a data loader is one integer. Resuming, changing the number of ranks and
skipping a bad stretch are arithmetic on n.

Each source is an endless stream: its documents in one random order, then all of them again in a fresh order, and
so on. A row is T tokens in a row of such a stream; the next row begins at the last token of this one, so that
each token is a target exactly once an epoch, but for the first of each document, which has nothing before it.
Rows take turns between sources so that after any n rows every source is within one row (a few, with many
sources) of its share. The shares may change on the way, at given rows (stages of a mixture): each source's stream goes
on where the stage before left it.

Limits: a permutation of the document numbers of a source is held in memory (16 bytes a document, two epochs), and
a document that a row border cuts goes on in another row without its beginning.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from luopan.errors import DataError

_STRETCH, _RUN = 2048, 32  # rows that are sorted by length together, and that stay together when they are shuffled
_UNITS = 1 << 40  # shares are whole numbers of these, so that counting rows is exact however long the run


@dataclass(frozen=True)
class MixtureStage:
    """A stretch of a run under one mixture: `rows` of it (None: all that follow) by `weights`, in any unit."""

    weights: Mapping[str, float]
    rows: int | None = None


Weights = Mapping[str, float] | Sequence[MixtureStage]


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


class Turns:
    """Whose turn it is: how many of the first n rows belong to each source.

    Within a stage source 1 takes its rounded share of n, source 2 its rounded share of what is left, and so on: each
    count rises by 0 or 1 from n to n + 1, and they add up to n, so exactly one source has row n. The last stage goes
    on for ever, whatever its `rows`.
    """

    def __init__(self, names: Sequence[str], stages: Sequence[MixtureStage]) -> None:
        if not stages:
            raise DataError("the mixture has no stage")
        self.names = tuple(names)
        self._shares = [_shares(stage.weights, list(names), some=len(stages) > 1) for stage in stages]
        self.starts = [0]
        for number, stage in enumerate(stages[:-1], 1):
            if stage.rows is None or stage.rows < 1:
                raise DataError(f"stage {number} of the mixture has {stage.rows or 'no number of'} rows")
            self.starts.append(self.starts[-1] + stage.rows)
        self._done = [dict.fromkeys(self.names, 0)]  # by each stage's first row
        for shares, first, end in zip(self._shares, self.starts, self.starts[1:]):
            self._done.append(_added(self._done[-1], _divided(shares, end - first)))

    def before(self, n: int) -> dict[str, int]:
        """Rows of each source among the first `n`."""
        stage = bisect_right(self.starts, n) - 1
        counts = _divided(self._shares[stage], n - self.starts[stage])
        return counts if stage == 0 and len(counts) == len(self.names) else _added(self._done[stage], counts)


class DataOrder:
    """The order of a run over several token sources.

    `lengths`: for each source the tokens in each of its documents. `weights`: each source's part of the tokens trained
    on, in any unit; left out, sources get their own size, so each is seen equally often; or the stages of a mixture,
    each of which may leave sources out.
    Raises DataError for sources without tokens and for weights that are not positive or name no source.
    """

    def __init__(
        self,
        lengths: Mapping[str, Sequence[int] | np.ndarray],
        weights: Weights | None,
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
        if weights is None or isinstance(weights, Mapping):
            weights = [MixtureStage(self._tokens if weights is None else weights)]
        self._turns = Turns(list(self._lengths), weights)
        self._epoch = lru_cache(maxsize=2 * len(self._lengths))(self._shuffled)

    @property
    def stride(self) -> int:
        """Fresh tokens in a row: each row repeats the last token of the one before it in its source."""
        return self.sequence_length - 1

    def locate(self, n: int) -> tuple[str, int]:
        """The source of row `n`, and how many rows of that source come before it."""
        before, after = self._turns.before(n), self._turns.before(n + 1)
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
            for name, rows in self._turns.before(n).items()
        }

    def rows_per_epoch(self) -> dict[str, float]:
        """Rows of each source until all of its tokens were seen once."""
        return {name: tokens / self.stride for name, tokens in self._tokens.items()}

    def _shuffled(self, name: str, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents of a source in the order of an epoch, and where each ends in the stream of that epoch."""
        documents = permutation(len(self._lengths[name]), "documents", self.seed, name, epoch)
        return documents, np.cumsum(self._lengths[name][documents])


class PackedOrder:
    """The order of a run over rows that are packed already (conversations): a fresh permutation every epoch.

    With `lengths` (tokens of each row) neighbours are of about one length: the permutation is taken `_STRETCH` rows at
    a time, each stretch sorted by length and its runs of `_RUN` rows shuffled. So a batch of up to so many rows needs
    little padding, long and short batches come in random order, and the order still knows nothing of the batch size.
    """

    def __init__(
        self, num_rows: int, seed: int, name: str = "rows", lengths: Sequence[int] | np.ndarray | None = None
    ) -> None:
        if num_rows < 1:
            raise DataError("there are no rows to train on")
        self.num_rows = num_rows
        sizes = None if lengths is None else np.asarray(lengths)
        assert sizes is None or len(sizes) == num_rows, (num_rows, len(sizes))

        def order(epoch: int) -> np.ndarray:
            drawn = permutation(num_rows, "rows", seed, name, epoch)
            return drawn if sizes is None else _grouped(drawn, sizes, (seed, name, epoch))

        self._epoch = lru_cache(maxsize=2)(order)

    def row(self, n: int) -> int:
        """Which packed row is the n-th of the run."""
        epoch, place = divmod(n, self.num_rows)
        return int(self._epoch(epoch)[place])

    def epochs(self, n: int) -> float:
        """How often the first `n` rows have seen each packed row, on average."""
        return n / self.num_rows


def _grouped(drawn: np.ndarray, lengths: np.ndarray, key: tuple[object, ...]) -> np.ndarray:
    """A permutation with rows of about one length side by side; see `PackedOrder`."""
    parts = []
    for start in range(0, len(drawn), _STRETCH):
        stretch = drawn[start : start + _STRETCH]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        runs = [stretch[place : place + _RUN] for place in range(0, len(stretch), _RUN)]
        # A run that is cut short would shift all that follow it off the borders of batches: it goes last.
        whole = len(stretch) // _RUN
        shuffled = permutation(whole, "runs", *key, start).tolist() if whole else []
        parts += [runs[number] for number in shuffled] + runs[whole:]
    return np.concatenate(parts)


def _divided(shares: Mapping[str, int], n: int) -> dict[str, int]:
    """How many of `n` rows each source gets. Whole numbers only, so that it is exact however long the run."""
    counts: dict[str, int] = {}
    left, units = n, sum(shares.values())
    for name, share in shares.items():
        counts[name] = (2 * left * share + units) // (2 * units) if units > share else left
        left -= counts[name]
        units -= share
    return counts


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: count + other.get(name, 0) for name, count in one.items()}


def _shares(weights: Mapping[str, float], names: list[str], *, some: bool) -> dict[str, int]:
    """Weights as whole units of `_UNITS`; sources in the given order. `some`: a source may be left out."""
    if not names:
        raise DataError("there is no token source to train on")
    odd = set(weights) - set(names) if some and weights else set(weights) ^ set(names)
    if odd:
        raise DataError(f"weights and sources differ in {', '.join(sorted(odd))}", hint=f"sources: {', '.join(names)}")
    for name, weight in weights.items():
        if not (weight > 0 and weight < float("inf")):
            raise DataError(
                f"the weight of {name!r} is {weight}", hint="weights are positive; leave a source out instead"
            )
    total = float(sum(weights.values()))
    return {name: max(1, round(weights[name] / total * _UNITS)) for name in names if name in weights}

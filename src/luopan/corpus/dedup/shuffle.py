"""Equal keys of all splits brought together, a part at a time, by way of files in one shared folder.

First each split sorts its keys and writes them in segments (a range of keys each); then each segment is gathered from
all splits, and runs of equal keys are looked at. A segment holds about `SEGMENT_ROWS` keys however large the corpus is,
so memory is bounded, and every piece of work is a function of small values and files that any executor can run. A row
is known by its number over all splits laid end to end; the smallest one of equal rows is the first, whatever the
segments.

Limit: memory is bounded by the number of different keys. One key that very many rows share (an empty text) makes one
long run, 32 bytes a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from luopan.corpus.executor import Executor

SEGMENT_ROWS = 1 << 20


@dataclass(frozen=True)
class SplitKeys:
    """The file with a split's keys, and the number of its first row; `marks` says which rows count (None: all)."""

    number: int
    file: Path
    offset: int
    rows: int
    marks: Path | None = None


@dataclass(frozen=True)
class Shuffled:
    """What `shuffle` wrote."""

    folder: Path
    splits: tuple[SplitKeys, ...]
    segments: int


def splits_of(files: Sequence[Path], marks: Sequence[Path] | None = None) -> list[SplitKeys]:
    """The splits that `files` ([rows, …] arrays, one per split) describe, with their offsets."""
    found: list[SplitKeys] = []
    offset = 0
    for number, file in enumerate(files):
        rows = len(np.load(file, mmap_mode="r"))
        found.append(SplitKeys(number, file, offset, rows, marks[number] if marks is not None else None))
        offset += rows
    return found


def partitions_for(splits: Sequence[SplitKeys], least: int = 1) -> int:
    """How many ranges of keys: at least so many, and enough for memory to stay bounded."""
    rows = splits[-1].offset + splits[-1].rows if splits else 0
    return max(1, least, -(-rows // SEGMENT_ROWS))


def shuffle(
    splits: Sequence[SplitKeys],
    folder: Path,
    executor: Executor,
    columns: Callable[[SplitKeys], list[tuple[np.ndarray, np.ndarray]]],
    column_count: int,
    partitions: int,
) -> Shuffled:
    """Write the keys of every split into `folder` by segment. `columns(split)` gives `column_count` pairs of rows [R]
    and their keys, [R] or [R, 2] uint64; keys meet within their column only. Segment c * partitions + p is range p of
    column c.
    """
    folder.mkdir(parents=True, exist_ok=True)
    work = partial(scatter, folder=folder, columns=columns, partitions=partitions)
    executor.map(work, list(splits))
    return Shuffled(folder, tuple(splits), column_count * partitions)


def scatter(
    split: SplitKeys,
    folder: Path,
    columns: Callable[[SplitKeys], list[tuple[np.ndarray, np.ndarray]]],
    partitions: int,
) -> None:
    """Write one split's keys and rows in the order of the segments, and where each segment begins."""
    all_keys, all_rows, bounds = [], [], [np.zeros(1, np.int64)]
    written = 0
    for rows, keys in columns(split):
        leading = keys if keys.ndim == 1 else keys[:, 0]
        order = np.argsort(leading, kind="stable")
        edges = np.searchsorted(range_of(leading[order], partitions), np.arange(1, partitions + 1))
        all_keys.append(keys[order])
        all_rows.append(rows[order].astype(np.uint32))
        bounds.append(edges + written)
        written += len(rows)
    np.save(part(folder, split, "keys"), np.concatenate(all_keys))
    np.save(part(folder, split, "rows"), np.concatenate(all_rows))
    np.save(part(folder, split, "bounds"), np.concatenate(bounds))


def range_of(keys: np.ndarray, partitions: int) -> np.ndarray:
    """[len(keys)] which of `partitions` equal ranges each 64-bit key is in."""
    return ((keys >> np.uint64(32)) * np.uint64(partitions)) >> np.uint64(32)


def gather(shuffled: Shuffled, segment: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of rows, the first row with the same key) of a segment's rows that are not the first of their key."""
    keys, numbers = [], []
    for split in shuffled.splits:
        low, high = np.load(part(shuffled.folder, split, "bounds"), mmap_mode="r")[segment : segment + 2]
        if low < high:
            keys.append(np.load(part(shuffled.folder, split, "keys"), mmap_mode="r")[low:high])
            rows = np.load(part(shuffled.folder, split, "rows"), mmap_mode="r")[low:high]
            numbers.append(rows.astype(np.int64) + split.offset)
    if not keys:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return later_ones(np.concatenate(keys), np.concatenate(numbers))


def later_ones(keys: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, their firsts), each [K], of rows whose key [R] or [R, 2] an earlier row has; `numbers` [R] rise among
    equal keys.
    """
    # Stable, so equal keys stay in the order of their numbers; quick, because each split's keys are sorted already.
    order = np.argsort(keys, kind="stable") if keys.ndim == 1 else np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    same = ordered[1:] == ordered[:-1]
    later = np.flatnonzero(same if keys.ndim == 1 else same.all(axis=1)) + 1  # [K] places in the order
    run_starts = np.flatnonzero(np.diff(later, prepend=-1) != 1)
    lengths = np.diff(run_starts, append=len(later))
    heads = np.repeat(later[run_starts] - 1, lengths)
    return numbers[order[later]], numbers[order[heads]]


def write_later_ones(segment: int, shuffled: Shuffled) -> Path:
    """`gather` a segment into a file [2, K] int64: numbers in order, and their firsts."""
    numbers, firsts = gather(shuffled, segment)
    order = np.argsort(numbers)
    path = shuffled.folder / f"later-{segment:05d}.npy"
    np.save(path, np.stack([numbers[order], firsts[order]]))
    return path


def firsts_of(split: SplitKeys, later: Sequence[Path]) -> np.ndarray:
    """[rows] int64: number of the first row with the same key, or -1; from what `write_later_ones` wrote."""
    firsts = np.full(split.rows, -1, np.int64)
    for path in later:
        numbers, found = np.load(path, mmap_mode="r")
        low, high = np.searchsorted(numbers, [split.offset, split.offset + split.rows])
        firsts[numbers[low:high] - split.offset] = found[low:high]
    return firsts


def clear(shuffled: Shuffled, later: Sequence[Path] = ()) -> None:
    """Remove the files in between."""
    for split in shuffled.splits:
        for kind in ("keys", "rows", "bounds"):
            part(shuffled.folder, split, kind).unlink(missing_ok=True)
    for path in later:
        path.unlink(missing_ok=True)


def part(folder: Path, split: SplitKeys, kind: str) -> Path:
    return folder / f"{kind}-{split.number:05d}.npy"


def slices(splits: Sequence[SplitKeys], numbers: np.ndarray) -> list[slice]:
    """For each split, where its rows are in the sorted `numbers`."""
    offsets = [split.offset for split in splits] + [splits[-1].offset + splits[-1].rows if splits else 0]
    return [slice(low, high) for low, high in pairwise(np.searchsorted(numbers, offsets).tolist())]


def answers(
    files: Sequence[Path],
    folder: Path,
    executor: Executor,
    least: int,
    write: Callable[[SplitKeys, np.ndarray, Path], Path],
) -> list[Path]:
    """Per split what `write(split, firsts, folder)` makes of `firsts` [rows] int64: for every key of the split's file
    the number of the first row with the same key, or -1. `least`: the least number of ranges to work on one by one."""
    splits = splits_of(files)
    shuffled = shuffle(splits, folder, executor, all_keys, 1, partitions_for(splits, least))
    later = executor.map(partial(write_later_ones, shuffled=shuffled), range(shuffled.segments))
    found = executor.map(partial(write_answer, later=later, folder=folder, write=write), splits)
    clear(shuffled, later)
    return found


def all_keys(split: SplitKeys) -> list[tuple[np.ndarray, np.ndarray]]:
    """All rows of a split and their keys."""
    return [(np.arange(split.rows), np.load(split.file))]


def write_answer(
    split: SplitKeys, later: Sequence[Path], folder: Path, write: Callable[[SplitKeys, np.ndarray, Path], Path]
) -> Path:
    """The answer for one split."""
    return write(split, firsts_of(split, later), folder)

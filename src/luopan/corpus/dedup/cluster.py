"""Near duplicates from MinHash keys: documents that share a key in any bucket, and those that they are linked to.

Each bucket's keys are brought together in ranges (`shuffle`), which gives links from a document to the first one with
its key. The links' connected components are found in one place; of each component the document with the smallest
number stays. All is a function of the keys alone: ranges, workers and their order change nothing.

Limits: documents that meet are taken for duplicates without a look at their texts, so the false ones that the bands let
through go, too (`MinHashConfig` says with what probability), and a chain of near neighbours is one component, though
its ends may differ. The joining needs 24 bytes of memory for each document that has a near twin, and the links of one
range at a time; documents without one cost nothing there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from luopan.corpus.dedup.minhash import NOTHING
from luopan.corpus.dedup.shuffle import (
    SplitKeys,
    clear,
    partitions_for,
    shuffle,
    slices,
    splits_of,
    write_later_ones,
)
from luopan.corpus.dedup_config import MinHashConfig
from luopan.corpus.executor import Executor


def near_twins(
    signature_files: Sequence[Path],
    alive_files: Sequence[Path],
    folder: Path,
    executor: Executor,
    config: MinHashConfig,
    partitions: int = 1,
) -> list[Path]:
    """Per split a file of [rows] int64 in `folder`: the number of the document that stays instead of this one, or -1.

    `signature_files` hold `minhash.signatures` [rows, buckets]; `alive_files` [rows] bool, false for documents that are
    gone already, which are linked to nothing. A document's number is its row in all splits laid end to end.
    """
    splits = splits_of(signature_files, alive_files)
    shuffled = shuffle(splits, folder, executor, bucket_columns, config.buckets, partitions_for(splits, partitions))
    links = executor.map(partial(write_later_ones, shuffled=shuffled), range(shuffled.segments))
    numbers, firsts = components(links)
    later = firsts != numbers
    found = []
    for split, own in zip(splits, slices(splits, numbers)):
        twins = np.full(split.rows, -1, np.int64)
        mine = later[own]
        twins[numbers[own][mine] - split.offset] = firsts[own][mine]
        found.append(folder / f"near-{split.number:05d}.npy")
        np.save(found[-1], twins)
    clear(shuffled, links)
    return found


def bucket_columns(split: SplitKeys) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each bucket the rows that are alive and have words, and their keys."""
    assert split.marks is not None
    keys = np.load(split.file)  # [rows, buckets]
    alive = np.load(split.marks)
    rows = np.flatnonzero(alive & (keys != NOTHING).all(axis=1))
    return [(rows, keys[rows, bucket]) for bucket in range(keys.shape[1])]


def components(links: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of all documents in links, sorted; the smallest number each is connected to), each [K] int64."""
    numbers = np.zeros(0, np.int64)
    for later, firsts in read_links(links):
        numbers = sorted_set(np.concatenate((numbers, later, firsts)))
    roots = np.arange(len(numbers))
    for later, firsts in read_links(links):
        join(roots, np.searchsorted(numbers, later), np.searchsorted(numbers, firsts))
    return numbers, numbers[roots]


def sorted_set(values: np.ndarray) -> np.ndarray:
    """The different values in order (numpy's `unique` goes by hashes, which took five times as long here)."""
    values.sort(kind="stable")
    return values[np.concatenate((np.ones(min(1, len(values)), bool), values[1:] != values[:-1]))]


def read_links(links: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(later documents, the first one of each) of every file."""
    for path in links:
        later, firsts = np.load(path)
        yield later, firsts


def join(roots: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Link ones[i] with others[i]; `roots` [K], the smallest member of each one's set so far, is brought up to date.

    A root is hung on the smallest root that it is linked to, then all paths are cut short, until no link joins two
    sets: some log K rounds of numpy instead of a loop over links.
    """
    while True:
        one, other = roots[ones], roots[others]
        apart = one != other
        if not apart.any():
            return
        ones, others = ones[apart], others[apart]
        low, high = np.minimum(one[apart], other[apart]), np.maximum(one[apart], other[apart])
        np.minimum.at(roots, high, low)
        while True:
            above = roots[roots]
            if np.array_equal(above, roots):
                break
            roots[:] = above

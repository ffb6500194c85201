"""MinHash signatures of documents (Broder 1997), folded to one key per bucket for locality-sensitive hashing.

A document is the set of its word n-grams. Each of buckets * hashes_per_bucket functions x -> a * x + b modulo 2^64 (a
odd, drawn from the seed) keeps the smallest value over the set; two documents share it with a probability of about
their similarity. The values of a bucket are hashed to one 64-bit key. Documents that share any key are near: `cluster`.

Rules for what has no n-gram: a document with fewer words than `ngram` is the set of one element, all its words, so it
is near to documents with the very same words only; one without words has the key 0 and is near to nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from luopan.corpus.batch import DocumentBatch
from luopan.corpus.dedup.hashed import STEP, HashedWords, hashed_words, joined, mix
from luopan.corpus.dedup_config import MinHashConfig

NOTHING = np.uint64(0)  # the key of a document without words
SHINGLES = 1 << 15  # worked on at once: 256 KiB, which stays in the second-level cache; fewer cost more in calls
LARGEST = np.uint64(0xFFFFFFFFFFFFFFFF)


def signatures(batch: DocumentBatch, config: MinHashConfig) -> np.ndarray:
    """[N, buckets] uint64: the keys of each document, the same on every machine for the same text and settings."""
    words = hashed_words(batch.texts, fold_numbers=config.fold_numbers)
    shingles, owners = shingle(words, config.ngram)
    return keys(minima(shingles, owners, len(batch), config), config)


def shingle(words: HashedWords, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes of the n-grams, number of the text), each [S], texts in order; a short text has one: all its words."""
    counts = np.diff(words.bounds)  # [N] words
    texts = np.repeat(np.arange(len(counts)), counts)  # [W]
    rolled = words.ngrams(n)
    inside = texts[: len(rolled)] == texts[n - 1 :]
    short = np.flatnonzero((counts > 0) & (counts < n))
    if not len(short):
        return rolled[inside], texts[: len(rolled)][inside]
    runs = [words.hashes[words.bounds[text] : words.bounds[text + 1]] for text in short.tolist()]
    whole = np.array([joined(run) for run in runs], np.uint64)
    owners = np.concatenate([texts[: len(rolled)][inside], short])
    order = np.argsort(owners, kind="stable")
    return np.concatenate([rolled[inside], whole])[order], owners[order]


def minima(shingles: np.ndarray, owners: np.ndarray, count: int, config: MinHashConfig) -> np.ndarray:
    """[count, hashes] uint64: the smallest value of each function over each document's shingles."""
    multipliers, offsets = functions(config)
    smallest = np.full((len(multipliers), count), LARGEST, np.uint64)
    values = np.empty(SHINGLES, np.uint64)
    for at in range(0, len(shingles), SHINGLES):
        some, own = shingles[at : at + SHINGLES], owners[at : at + SHINGLES]
        starts = np.flatnonzero(np.concatenate(([True], own[1:] != own[:-1])))
        rows = own[starts]
        found = np.empty((len(multipliers), len(starts)), np.uint64)
        out = values[: len(some)]
        for k in range(len(multipliers)):
            np.multiply(some, multipliers[k], out=out)
            np.add(out, offsets[k], out=out)
            np.minimum.reduceat(out, starts, out=found[k])
        smallest[:, rows] = np.minimum(smallest[:, rows], found)
    return smallest.T


def keys(smallest: np.ndarray, config: MinHashConfig) -> np.ndarray:
    """[N, buckets] uint64: each bucket's values [N, hashes] as one hash; 0 for a document without shingles."""
    bands = smallest.reshape(len(smallest), config.buckets, config.hashes_per_bucket)
    folded = np.zeros(bands.shape[:2], np.uint64)
    for k in range(config.hashes_per_bucket):
        folded = mix((folded + bands[:, :, k]) * STEP)
    folded[folded == NOTHING] = np.uint64(1)
    folded[(smallest == LARGEST).all(axis=1)] = NOTHING
    return folded


@lru_cache(maxsize=4)
def functions(config: MinHashConfig) -> tuple[np.ndarray, np.ndarray]:
    """(multipliers, all odd; offsets), each [hashes] uint64, from the seed alone."""
    count = config.buckets * config.hashes_per_bucket
    counters = np.arange(1, 2 * count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    values = mix(counters + mix(np.array([config.seed], np.uint64)))
    return values[:count] | np.uint64(1), values[count:]

"""Which texts of a batch the rules about n-grams need not look at (`repetition.py`), by a few passes over all of them.

Bounds never err on the other side: what they leave out would be found by no rule. An n-gram is a number of 32 bits
here, 24 of a hash and 8 that say how many characters it has, so that one short sort says how much of a text may be
repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from luopan.corpus.filter_config import GopherRepetitionConfig
from luopan.corpus.repetition import LINE_RULES, duplicate_ngrams, holds, limits_by_n, top_ngrams
from luopan.corpus.verdict import Finding
from luopan.corpus.words import Reading

Rule = Callable[[Reading, GopherRepetitionConfig], Finding | None]
MULTIPLIER = np.uint32(0x9E3779B1)  # odd, bits well spread
LONG = np.uint32(255)  # characters of an n-gram, that many or more


def rules_for(readings: Sequence[Reading], config: GopherRepetitionConfig) -> list[tuple[Rule, ...]]:
    """Per text the rules that may find something: those about n-grams for one English web page in six."""
    tops, duplicates = limits_by_n(config.max_top_ngram), limits_by_n(config.max_duplicate_ngrams)
    shortest = min((n for n, _ in duplicates), default=1)
    most = min((limit for _, limit in duplicates), default=1.0)
    tables = tagged(readings, sorted({shortest, *(n for n, _ in tops)}))
    found: list[tuple[Rule, ...]] = []
    end = 0
    for row, reading in enumerate(readings):
        start, end = end, end + reading.token_count
        if not reading.wants_spaces:  # n-grams of twice as many tokens: the tables do not bound them
            found.append((*LINE_RULES, top_ngrams, duplicate_ngrams))
            continue
        own = {n: (grams[start:end], longest[row]) for n, (grams, longest) in tables.items()}
        rules: tuple[Rule, ...] = LINE_RULES
        if tops and may_be_frequent(own, tops, reading.size, config.min_top_ngram_count):
            rules += (top_ngrams,)
        if duplicates and repeated_characters(*own[shortest]) > most * reading.size:
            rules += (duplicate_ngrams,)
        found.append(rules)
    return found


def may_be_frequent(
    tables: dict[int, tuple[np.ndarray, int]], limits: Sequence[tuple[int, float]], size: int, least: int
) -> bool:
    """Whether some n-gram of a text of `size` characters may occur often enough to make up more than its limit."""
    # With fewer occurrences even the longest n-gram (its tokens joined by spaces) makes up no more than that.
    fewest = [max(least, int(most * size // max(1, tables[n][1] + n - 1)) + 1) for n, most in limits]
    for (n, _), times in zip(limits, fewest):
        ordered = np.sort(tables[n][0])
        if not holds(ordered, min(fewest)):
            return False  # a longer n-gram is no more frequent than its parts
        if holds(ordered, times):
            return True
    return False


def tagged(readings: Sequence[Reading], wanted: Sequence[int]) -> dict[int, tuple[np.ndarray, list[int]]]:
    """For each n `wanted` (the n-grams of all texts [T], characters of the longest of each text).

    N-grams that begin in one text and end in the next are among those of the first; at the end words are missing.
    """
    counts = np.array([reading.token_count for reading in readings], np.int64)
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    found: dict[int, tuple[np.ndarray, list[int]]] = {}
    if not len(starts):
        return {n: (np.zeros(0, np.uint32), [0] * len(counts)) for n in wanted}
    words = np.concatenate([reading.token_hashes for reading in readings])
    words = (words >> np.uint64(32)).astype(np.uint32)
    lengths = np.concatenate([reading.token_lengths for reading in readings]).astype(np.uint32)
    hashes, characters = words.copy(), lengths.copy()
    for n in range(1, max(wanted) + 1):
        if 1 < n <= len(words):
            hashes *= MULTIPLIER
            hashes[: 1 - n] += words[n - 1 :]
            characters[: 1 - n] += lengths[n - 1 :]
        if n in wanted:
            longest = np.zeros(len(counts), np.int64)
            longest[filled] = np.maximum.reduceat(characters, starts)
            found[n] = (hashes & ~LONG) | np.minimum(characters, LONG), longest.tolist()
    return found


def repeated_characters(grams: np.ndarray, longest: int) -> float:
    """No fewer characters than all n-grams of a text have that occurred before."""
    ordered = np.sort(grams)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return 0
    return math.inf if longest >= LONG else float((again & LONG).sum())

"""Rules about repeated lines, paragraphs and n-grams (Gopher, arXiv:2112.11446, table A1).

Shares are of the text's characters. An n-gram is n tokens of `words.py`, compared by a 64-bit rolling hash, so that one
pass of numpy replaces a Python loop per n; equal hashes of different n-grams would take some billions of words to see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from luopan.corpus.config import FilterConfig
from luopan.corpus.verdict import Finding, above
from luopan.corpus.words import Reading

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, bits well spread


def repeated(parts: Sequence[str]) -> tuple[int, int]:
    """(how many parts occurred before, their characters): each occurrence after the first counts."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    count = characters = 0
    for part in parts:
        if part in seen:
            count += 1
            characters += len(part)
        else:
            seen.add(part)
    return count, characters


def duplicate_lines(reading: Reading, config: FilterConfig) -> Finding | None:
    """Share of the lines, and of the characters, in lines that occurred before. Blank lines do not count."""
    lines = reading.lines
    count, characters = repeated(lines)
    return above("max_duplicate_lines", count / max(1, len(lines)), config.max_duplicate_lines) or above(
        "max_duplicate_line_characters", characters / reading.size, config.max_duplicate_line_characters
    )


def duplicate_paragraphs(reading: Reading, config: FilterConfig) -> Finding | None:
    """Share of the paragraphs, and of the characters, in paragraphs that occurred before."""
    if len(set(reading.lines)) == len(reading.lines):
        return None  # a paragraph that is repeated repeats its lines
    paragraphs = reading.paragraphs
    count, characters = repeated(paragraphs)
    return above("max_duplicate_paragraphs", count / max(1, len(paragraphs)), config.max_duplicate_paragraphs) or above(
        "max_duplicate_paragraph_characters", characters / reading.size, config.max_duplicate_paragraph_characters
    )


def top_ngrams(reading: Reading, config: FilterConfig) -> Finding | None:
    """Share of the characters in the most frequent n-gram (tokens joined by spaces), counted if it occurs twice.

    Of several that are most frequent, the one that comes first counts.
    """
    count = len(reading.tokens)  # of the n before: a longer n-gram is no more frequent than its parts
    for n, most in sorted(config.max_top_ngram.items()):
        longest = n * (reading.tally.longest + 1) - 1
        enough = most * reading.size
        if count * longest <= enough:
            continue
        count = highest_count(reading, n)
        if count * longest <= enough:
            continue
        if finding := above(f"max_top_ngram.{n}", top_ngram_characters(reading, n, count) / reading.size, most):
            return finding
    return None


def highest_count(reading: Reading, n: int) -> int:
    """How often the most frequent n-gram occurs, 0 in a text of fewer tokens."""
    ordered = np.sort(hashes(reading, n))
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return int(np.diff(starts, prepend=0, append=len(ordered)).max())


def top_ngram_characters(reading: Reading, n: int, count: int) -> int:
    """Length of the first n-gram that occurs `count` times, tokens joined by spaces, times `count`; 0 for count < 2."""
    if count < 2:
        return 0
    grams = hashes(reading, n).tolist()
    # A Counter keeps the order in which its keys came first.
    winner = next(gram for gram, times in Counter(grams).items() if times == count)
    first = grams.index(winner)
    return len(" ".join(reading.tokens[first : first + n])) * count


def duplicate_ngrams(reading: Reading, config: FilterConfig) -> Finding | None:
    """Share of the characters in n-grams that occurred before (not overlapping, from the left)."""
    cover = float(reading.size)  # what repeats for n repeats for any smaller n too, so this bounds the ones that follow
    for n, most in sorted(config.max_duplicate_ngrams.items()):
        enough = most * reading.size
        if cover > enough:
            cover = repeated_cover(reading, n, enough)
        if cover <= enough:
            continue
        share = duplicate_ngram_characters(reading, n) / reading.size
        if finding := above(f"max_duplicate_ngrams.{n}", share, most):
            return finding
    return None


def repeated_cover(reading: Reading, n: int, enough: float) -> float:
    """Characters of all tokens that lie in an n-gram which occurred before, overlapping or not.

    A rougher bound, never too small, is returned where it is at most `enough` already: one sort settles most texts.
    """
    grams = hashes(reading, n)
    ordered = np.sort(grams)
    rough = int((ordered[1:] == ordered[:-1]).sum()) * n * reading.tally.longest
    if rough <= enough:
        return rough
    order = np.argsort(grams, kind="stable")
    ordered = grams[order]
    later = order[1:][ordered[1:] == ordered[:-1]]  # stable: of equal ones the first is the one that came first
    steps = np.zeros(len(reading.tokens) + 1, np.int64)
    np.add.at(steps, later, 1)
    np.add.at(steps, later + n, -1)
    inside = np.cumsum(steps[:-1]) > 0  # [tokens]
    return float(token_lengths(reading)[inside].sum())


def duplicate_ngram_characters(reading: Reading, n: int) -> int:
    """Characters of n-grams that occurred before; after one is counted the search goes on behind it."""
    grams = hashes(reading, n).tolist()
    ends = np.concatenate(([0], np.cumsum(token_lengths(reading)))).tolist()
    seen: set[int] = set()
    characters = at = 0
    while at < len(grams):
        if grams[at] in seen:
            characters += ends[at + n] - ends[at]
            at += n
        else:
            seen.add(grams[at])
            at += 1
    return characters


def hashes(reading: Reading, n: int) -> np.ndarray:
    """[tokens - n + 1] uint64: equal where the n tokens from there are equal."""
    base = reading.token_hashes
    rolled = base
    with np.errstate(over="ignore"):
        for k in range(1, n):
            rolled = rolled[: max(0, len(base) - k)] * MULTIPLIER + base[k:]
    return rolled


def token_lengths(reading: Reading) -> np.ndarray:
    """[tokens] characters of each token."""
    return np.fromiter(map(len, reading.tokens), np.int64, len(reading.tokens))

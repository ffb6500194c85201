"""Rules about repeated lines, paragraphs and n-grams (Gopher, arXiv:2112.11446, table A1).

Shares are of the text's characters. An n-gram is n tokens of `words.py`, compared by a 64-bit rolling hash, so that one
pass of numpy replaces a Python loop per n; equal hashes of different n-grams would take some billions of words to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from luopan.corpus.filter_config import GopherRepetitionConfig
from luopan.corpus.verdict import Finding, above
from luopan.corpus.words import CHARACTERS_PER_WORD, Reading

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


def duplicate_lines(reading: Reading, config: GopherRepetitionConfig) -> Finding | None:
    """Share of the lines, and of the characters, in lines that occurred before. Blank lines do not count."""
    lines = reading.lines
    count, characters = repeated(lines)
    return above("max_duplicate_lines", count / max(1, len(lines)), config.max_duplicate_lines) or above(
        "max_duplicate_line_characters", characters / reading.size, config.max_duplicate_line_characters
    )


def duplicate_paragraphs(reading: Reading, config: GopherRepetitionConfig) -> Finding | None:
    """Share of the paragraphs, and of the characters, in paragraphs that occurred before."""
    if len(set(reading.lines)) == len(reading.lines):
        return None  # a paragraph that is repeated repeats its lines
    paragraphs = reading.paragraphs
    count, characters = repeated(paragraphs)
    return above("max_duplicate_paragraphs", count / max(1, len(paragraphs)), config.max_duplicate_paragraphs) or above(
        "max_duplicate_paragraph_characters", characters / reading.size, config.max_duplicate_paragraph_characters
    )


def top_ngrams(reading: Reading, config: GopherRepetitionConfig) -> Finding | None:
    """Share of the characters in the most frequent n-gram (tokens joined by spaces), if it occurs often enough.

    Of several that are most frequent, the one that comes first counts.
    """
    words = tokens_per_word(reading)
    limits = [(n * words, most) for n, most in limits_by_n(config.max_top_ngram)]
    if not limits:
        return None
    longest = reading.tally.longest
    # With fewer occurrences even n of the longest tokens make up no more than is allowed.
    fewest = {n: int(most * reading.size // max(1, n * (longest + 1) - 1)) + 1 for n, most in limits}
    # A longer n-gram is no more frequent than its parts: one look at the shortest settles most texts.
    if not occurs(reading, limits[0][0], max(config.min_top_ngram_count, min(fewest.values()))):
        return None
    for n, most in limits:
        if not occurs(reading, n, max(config.min_top_ngram_count, fewest[n])):
            continue
        share = top_ngram_characters(reading, n, highest_count(reading, n)) / reading.size
        if finding := above(f"max_top_ngram.{n // words}", share, most):
            return finding
    return None


def tokens_per_word(reading: Reading) -> int:
    """How many tokens an n-gram counts as a word: two characters in a text of a script without spaces. Five characters
    that come again are half a phrase, as common in good Chinese as two or three words that do in English."""
    return 1 if reading.wants_spaces else CHARACTERS_PER_WORD


def occurs(reading: Reading, n: int, times: int) -> bool:
    """Whether some n-gram occurs at least so often."""
    return holds(np.sort(hashes(reading, n)), times)


def holds(ordered: np.ndarray, times: int) -> bool:
    """Whether some value stands at least so often (`times` >= 1) among sorted ones."""
    return len(ordered) >= times and bool((ordered[times - 1 :] == ordered[: len(ordered) - times + 1]).any())


def highest_count(reading: Reading, n: int) -> int:
    """How often the most frequent n-gram occurs, 0 in a text of fewer tokens."""
    ordered = np.sort(hashes(reading, n))
    starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    return int(np.diff(starts, prepend=0, append=len(ordered)).max())


def top_ngram_characters(reading: Reading, n: int, count: int) -> int:
    """Length of the first n-gram that occurs `count` times, tokens joined by spaces, times `count`; 0 for count 0."""
    if not count:
        return 0
    grams = hashes(reading, n)
    values, times = np.unique(grams, return_counts=True)
    first = int(np.isin(grams, values[times == count]).argmax())
    between = " " if reading.wants_spaces else ""
    return len(between.join(map(reading.token, range(first, first + n)))) * count


def duplicate_ngrams(reading: Reading, config: GopherRepetitionConfig) -> Finding | None:
    """Share of the characters in n-grams that occurred before (not overlapping, from the left)."""
    cover = float(reading.size)  # what repeats for n repeats for any smaller n too, so this bounds the ones that follow
    words = tokens_per_word(reading)
    for n, most in ((n * words, most) for n, most in limits_by_n(config.max_duplicate_ngrams)):
        enough = most * reading.size
        if cover > enough:
            cover = repeated_cover(reading, n, enough)
        if cover <= enough:
            continue
        share = duplicate_ngram_characters(reading, n) / reading.size
        if finding := above(f"max_duplicate_ngrams.{n // words}", share, most):
            return finding
    return None


def repeated_cover(reading: Reading, n: int, enough: float) -> float:
    """Characters of all tokens that lie in an n-gram which occurred before, overlapping or not.

    A rougher bound, never too small, is returned where it is at most `enough` already: one sort settles most texts.
    """
    grams = hashes(reading, n)
    ordered = np.sort(grams)
    rough = float(np.count_nonzero(ordered[1:] == ordered[:-1]) * n * reading.tally.longest)
    if rough <= enough:
        return rough
    order = np.argsort(grams, kind="stable")
    ordered = grams[order]
    later = order[1:][ordered[1:] == ordered[:-1]]  # stable: of equal ones the first is the one that came first
    inside = np.zeros(reading.token_count, bool)
    for place in range(n):
        inside[later + place] = True
    return float(reading.token_lengths[inside].sum())


def duplicate_ngram_characters(reading: Reading, n: int) -> int:
    """Characters of n-grams that occurred before; after one is counted the search goes on behind it."""
    grams = hashes(reading, n)
    order = np.argsort(grams)
    same = grams[order[1:]] == grams[order[:-1]]
    several = np.zeros(len(grams), bool)  # those that occur once alone say nothing
    several[order[1:][same]] = several[order[:-1][same]] = True
    ends = np.concatenate(([0], np.cumsum(reading.token_lengths))).tolist()
    seen: set[int] = set()
    characters = free = 0
    for at, gram in zip(np.flatnonzero(several).tolist(), grams[several].tolist()):
        if at < free:
            continue
        if gram in seen:
            characters += ends[at + n] - ends[at]
            free = at + n
        else:
            seen.add(gram)
    return characters


def hashes(reading: Reading, n: int) -> np.ndarray:
    """[tokens - n + 1] uint64: equal where the n tokens from there are equal."""
    base = reading.token_hashes
    done, rolled = reading.rolled  # n mostly grows by one from call to call
    if done > n:
        done, rolled = 1, base
    for k in range(done, n):
        rolled = rolled[: max(0, len(base) - k)] * MULTIPLIER + base[k:]
    reading.rolled = (n, rolled)
    return rolled


# Cheap ones first: the first finding ends the search.
LINE_RULES = (duplicate_paragraphs, duplicate_lines)
RULES = (*LINE_RULES, top_ngrams, duplicate_ngrams)


def limits_by_n(limits: Mapping[int, float | None]) -> list[tuple[int, float]]:
    """(n, limit) in the order of n, without those that are off."""
    return [(n, limit) for n, limit in sorted(limits.items()) if limit is not None]

"""Words of many texts as arrays, by a few passes of numpy: the tokens of `words.py` without a Python object for each.

Each token of `words.split_words` has its place in the text, a 64-bit hash (`dedup/hashed.py`, here of the characters as
they stand: case counts) and flags that say what it holds; a text's tally is a sum of those. Web pages, books and
Chinese take 14 to 20 ms per megabyte, where splitting into strings and counting these takes 100 to 135 (2026-11-23,
one core of two that others used as well).

Limits: two different tokens share a hash once in 2^64 pairs, by chance; the base is public, so collisions can be made.
Long texts are read in pieces, cut at line ends or spaces, to bound memory; where there is none they stay whole.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from luopan.corpus.dedup.hashed import CHUNK, PAGE, PIECE, chunks, polynomial
from luopan.corpus.words import Tally, TokenArrays, mark_pattern, unspaced_pattern

# What a character is to a token, in the low bits of its kind; SYMBOL and SINGLE are tokens by themselves.
SPACE, WORD, SYMBOL, SINGLE, APOSTROPHE = range(5)
GROUP = 7
LETTER, COUNTED = 8, 16  # a letter or mark; a letter, mark or number: what makes a token a word
UNKNOWN = 255


def read_tokens(texts: Sequence[str]) -> list[TokenArrays]:
    """The tokens of each text, as `words.split_words` has them."""
    pieces: list[list[TokenArrays]] = [[] for _ in texts]
    for chunk in chunks(texts, piece_end, CHUNK):
        for (number, _, _), found in zip(chunk, read_chunk(texts, chunk)):
            pieces[number].append(found)
    return [found[0] if len(found) == 1 else together(found) for found in pieces]


def together(pieces: Sequence[TokenArrays]) -> TokenArrays:
    """The pieces of one text as one."""
    nothing = np.zeros(0, np.int32)
    pieces = [TokenArrays(nothing.astype(np.uint64), nothing, nothing, Tally(0, 0, 0, 0, 0, 0)), *pieces]
    hashes, starts, ends, tallies = zip(*pieces)
    words, unspaced, with_letter, word_characters, symbol_characters, longest = zip(*tallies)
    return TokenArrays(
        np.concatenate(hashes),
        np.concatenate(starts),
        np.concatenate(ends),
        Tally(sum(words), sum(unspaced), sum(with_letter), sum(word_characters), sum(symbol_characters), max(longest)),
    )


def piece_end(text: str, at: int) -> int:
    """Where the piece that begins at `at` ends: before white space PIECE characters on, so that no token is cut."""
    if len(text) - at <= PIECE:
        return len(text)
    found = [place for place in (text.find(border, at + PIECE) for border in "\n ") if place > 0]
    return min(found, default=len(text))


def read_chunk(texts: Sequence[str], pieces: Sequence[tuple[int, int, int]]) -> list[TokenArrays]:
    """The tokens of each piece."""
    lengths = np.array([end - at for _, at, end in pieces], np.int64)
    # Line feeds at both ends and between pieces part the tokens.
    joined = "\n" + "\n".join([texts[number][at:end] for number, at, end in pieces]) + "\n"
    if joined.isascii():
        codes = np.frombuffer(joined.encode("ascii"), np.uint8)
    else:
        codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = kind_table().of(codes)
    starts, ends = token_edges(kinds)
    hashes = polynomial(codes, starts, ends)
    first = np.cumsum(lengths + 1) - lengths  # [pieces] where each piece begins in `joined`
    bounds = np.append(np.searchsorted(starts, first), len(starts))
    tallies = tally_all(ends - starts, token_flags(kinds, starts, ends), bounds)
    shift = np.repeat(np.array([at for _, at, _ in pieces], np.int64) - first, np.diff(bounds))
    starts, ends = (starts + shift).astype(np.int32), (ends + shift).astype(np.int32)
    return [
        TokenArrays(hashes[low:high], starts[low:high], ends[low:high], counted)
        for low, high, counted in zip(bounds.tolist(), bounds[1:].tolist(), tallies)
    ]


def token_edges(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the tokens, each [tokens] int64. The first and last character are white space."""
    groups = kinds & GROUP
    apostrophes = np.flatnonzero(groups == APOSTROPHE)
    before, after = groups[apostrophes - 1], groups[apostrophes + 1]
    inside = ((before == WORD) | (before == SINGLE)) & ((after == WORD) | (after == SINGLE))
    groups[apostrophes] = np.where(inside, WORD, SYMBOL)
    border = groups[1:] != groups[:-1]
    border |= groups[1:] >= SYMBOL
    edges = np.flatnonzero(border) + 1
    words = np.flatnonzero(groups.take(edges[:-1]))  # all but SPACE
    return edges.take(words), edges.take(words + 1)


def token_flags(kinds: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[tokens] uint8: the kind of the first character, with the flags of all."""
    flags = kinds.take(starts)
    doubtful = np.flatnonzero((flags < COUNTED + LETTER) & (ends - starts > 1))
    pairs = np.stack([starts[doubtful], ends[doubtful]], axis=1).ravel()
    flags[doubtful] |= np.bitwise_or.reduceat(kinds & (LETTER | COUNTED), pairs)[::2]
    return flags


def tally_all(lengths: np.ndarray, flags: np.ndarray, bounds: np.ndarray) -> list[Tally]:
    """[N] the tally of each text."""
    counted = (flags & COUNTED) > 0

    def per_text(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.diff(sums[bounds])

    longest = np.zeros(len(bounds) - 1, np.int64)
    filled = np.diff(bounds) > 0
    longest[filled] = np.maximum.reduceat(lengths, bounds[:-1][filled]) if len(lengths) else 0
    word_characters = per_text(np.where(counted, lengths, 0))
    columns = (
        per_text(counted),
        per_text((flags & GROUP) == SINGLE),
        per_text((flags & LETTER) > 0),
        word_characters,
        per_text(lengths) - word_characters,
        longest,
    )
    return [Tally(*row) for row in zip(*(column.tolist() for column in columns))]


class KindTable:
    """Kind of each code point, looked up a page at a time when a text first has a character of it."""

    def __init__(self) -> None:
        self.kinds = np.full(0x110000, UNKNOWN, np.uint8)

    def of(self, codes: np.ndarray) -> np.ndarray:
        """[len(codes)] uint8."""
        found = self.kinds.take(codes)
        unknown = codes[found == UNKNOWN] if found.max() == UNKNOWN else codes[:0]
        if not len(unknown):
            return found
        for page in sorted({code // PAGE for code in unknown.tolist()}):
            characters = map(chr, range(page * PAGE, (page + 1) * PAGE))
            self.kinds[page * PAGE : (page + 1) * PAGE] = [kind(character) for character in characters]
        return self.kinds.take(codes)


@lru_cache(maxsize=1)
def kind_table() -> KindTable:
    return KindTable()


def kind(character: str) -> int:
    """What a character is to a token, and its flags."""
    category = unicodedata.category(character)[0]
    flags = {"L": LETTER | COUNTED, "M": LETTER | COUNTED, "N": COUNTED}.get(category, 0)
    if character in "'’":
        return APOSTROPHE
    if character.isspace():
        return SPACE
    if not (character.isalnum() or character == "_" or mark_pattern().match(character)):
        return SYMBOL | flags
    return flags | (SINGLE if unspaced_pattern().match(character) else WORD)

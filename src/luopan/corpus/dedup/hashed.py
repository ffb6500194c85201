"""Words of many texts as 64-bit hashes, by a few passes of numpy instead of a Python loop over words.

A word is a run of letters, digits and combining marks in lower case; a character of a script written without spaces
(see `words.py`) is a word of its own; punctuation parts words and is left out, or, with `symbols`, a run of one and the
same symbol is a word too. A word's hash is the polynomial of its characters modulo 2^64 with a fixed odd base, mixed:
it is the same in every process and on every machine, and one running sum serves all words of many texts.

Limits: which characters are letters is what Python's Unicode tables say, so a new version may read new scripts
differently. A word that is longer than `PIECE` characters may be cut in two. Characters of Thai or Khmer are hashed one
by one, vowel signs included. Chosen collisions are possible (the base is public); by chance two different words share a
hash once in 2^64 pairs.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from luopan.corpus.words import unspaced_pattern

BASE = 0x9E3779B97F4A7C15  # of the polynomial; odd, so that it has an inverse modulo 2^64
STEP = np.uint64(0xD6E8FEB86659FD93)  # joins the hashes of neighbouring words
NUMBER = np.uint64(0x2545F4914F6CDD1D)  # stands for all numbers where they are folded
CHUNK = 1 << 16  # characters worked on at once, so that the arrays stay in the second-level cache
PIECE = 1 << 20  # characters: longer texts are read in pieces, to bound memory
PAGE = 1 << 8  # code points whose kinds are looked up together
SPACE, SYMBOL, LETTER, DIGIT, SINGLE = range(5)
KIND_SHIFT, CODE = 24, (1 << 24) - 1
UNKNOWN = 0xFFFFFFFF


@dataclass(frozen=True)
class HashedWords:
    """Words of N texts. Text i has the words bounds[i] … bounds[i + 1] - 1; starts and ends are character offsets in
    its own text.
    """

    hashes: np.ndarray  # [W] uint64
    starts: np.ndarray  # [W] int64
    ends: np.ndarray  # [W] int64
    singles: np.ndarray  # [W] bool: one character of a script without spaces
    bounds: np.ndarray  # [N + 1] int64

    def ngrams(self, n: int) -> np.ndarray:
        """[W - n + 1] uint64, see `ngrams`; those at the borders of texts are over words of both."""
        return ngrams(self.hashes, n)


def hashed_words(texts: Sequence[str], *, symbols: bool = False, fold_numbers: bool = False) -> HashedWords:
    """The words of `texts`; `symbols` keeps runs of a symbol, `fold_numbers` gives all words of digits one hash."""
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in chunks(texts, piece_end, CHUNK):
        parts.append(read_chunk(texts, chunk, symbols, fold_numbers))
    if not parts:
        empty = np.zeros(0, np.int64)
        return HashedWords(empty.view(np.uint64), empty, empty, empty.astype(bool), np.zeros(len(texts) + 1, np.int64))
    hashes, starts, ends, singles, owners = (np.concatenate(column) for column in zip(*parts))
    bounds = np.searchsorted(owners, np.arange(len(texts) + 1))
    return HashedWords(hashes, starts, ends, singles, bounds)


def chunks(
    texts: Sequence[str], piece_end: Callable[[str, int], int], characters: int
) -> Iterator[list[tuple[int, int, int]]]:
    """Pieces (text, first character, end) in groups of about so many `characters`; `piece_end` (text, first character)
    says where a piece ends. What is cut, and where, depends on the text alone."""
    group: list[tuple[int, int, int]] = []
    size = 0
    for number, text in enumerate(texts):
        at = 0
        while at < len(text):
            end = piece_end(text, at)
            if group and size + end - at > characters:
                yield group
                group, size = [], 0
            group.append((number, at, end))
            size += end - at
            at = end
    if group:
        yield group


def piece_end(text: str, at: int) -> int:
    """Where the piece that begins at `at` ends: before the last line or space within PIECE characters."""
    if len(text) - at <= PIECE:
        return len(text)
    end = at + PIECE
    for border in "\n ":
        found = text.rfind(border, at + PIECE // 2, end)
        if found > at:
            return found
    return end


def read_chunk(
    texts: Sequence[str], pieces: Sequence[tuple[int, int, int]], symbols: bool, fold_numbers: bool
) -> tuple[np.ndarray, ...]:
    """(hashes, starts, ends, singles, number of the text) of the words in a chunk, each [words]."""
    owners = np.array([number for number, _, _ in pieces], np.int64)
    lengths = np.array([end - at for _, at, end in pieces], np.int64)
    # Line feeds at both ends and between pieces part the words, and make each position differ from its neighbour.
    joined = "\n" + "\n".join([texts[number][at:end] for number, at, end in pieces]) + "\n"
    codes, kinds = characters(joined)
    first = np.cumsum(lengths + 1) - lengths  # [pieces] where each piece begins in `joined`
    starts, ends = word_edges(codes, kinds, symbols)
    hashes = polynomial(codes, starts, ends)
    if fold_numbers:
        digits = np.cumsum(kinds == DIGIT, dtype=np.int32)
        hashes[digits[ends - 1] - digits[starts - 1] == ends - starts] = NUMBER
    piece = np.repeat(np.arange(len(pieces)), np.diff(np.searchsorted(starts, np.append(first, len(joined)))))
    shift = np.array([at for _, at, _ in pieces], np.int64)[piece] - first[piece]
    return hashes, starts + shift, ends + shift, kinds[starts] == SINGLE, owners[piece]


def characters(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(code points in lower case, their kinds), each [len(text)]."""
    if text.isascii():
        raw = text.lower().encode("ascii")
        return np.frombuffer(raw, np.uint8), np.frombuffer(raw.translate(ascii_kinds()), np.uint8)
    # By tables and not by str.lower, which takes longer and may change the length of a text.
    packed = character_table().of(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32))
    return packed & np.uint32(CODE), (packed >> np.uint32(KIND_SHIFT)).astype(np.uint8)


def word_edges(codes: np.ndarray, kinds: np.ndarray, symbols: bool) -> tuple[np.ndarray, np.ndarray]:
    """(starts, ends) of the words, each [words] int64. The first and last character are white space."""
    groups = np.frombuffer(kinds.tobytes().translate(group_table(symbols)), np.uint8)
    here, before = groups[1:], groups[:-1]
    border = here != before
    singles = here == SINGLE
    if not symbols and not singles.any():  # words and what parts them take turns
        edges = np.flatnonzero(border) + 1
        return edges[::2], edges[1::2]
    border |= singles
    if symbols:
        border |= (here == SYMBOL) & (codes[1:] != codes[:-1])
    edges = np.flatnonzero(border) + 1
    words = np.flatnonzero(groups[edges[:-1]] != SPACE) if len(edges) else np.zeros(0, np.int64)
    return edges[words], edges[words + 1]


@lru_cache(maxsize=2)
def group_table(symbols: bool) -> bytes:
    """Kinds to what parts words, for bytes.translate: digits are letters, and symbols nothing unless asked for."""
    return bytes.maketrans(bytes([DIGIT, SYMBOL]), bytes([LETTER, SYMBOL if symbols else SPACE]))


def polynomial(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """[words] uint64: sum of code * BASE^(position in the word), mixed. One running sum serves all words."""
    powers, inverses = power_tables(len(codes))
    sums = codes * powers[: len(codes)]
    np.cumsum(sums, out=sums)
    hashes = sums.take(ends - 1)
    hashes -= sums.take(starts - 1)
    hashes *= inverses.take(starts)
    return mix(hashes)


def power_tables(size: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE^i and its inverse modulo 2^64 for i < size at least."""
    return powers_of(max(2 * CHUNK, 1 << (size - 1).bit_length()))


@lru_cache(maxsize=2)
def powers_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    tables = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        table = np.full(size, base, np.uint64)
        table[0] = 1
        tables.append(np.multiply.accumulate(table))
    return tables[0], tables[1]


def mix(values: np.ndarray) -> np.ndarray:
    """Spread the bits of each value over all 64, in place (the finaliser of SplitMix64, Steele et al. 2014)."""
    scratch = values >> np.uint64(30)
    values ^= scratch
    values *= np.uint64(0xBF58476D1CE4E5B9)
    np.right_shift(values, np.uint64(27), out=scratch)
    values ^= scratch
    values *= np.uint64(0x94D049BB133111EB)
    np.right_shift(values, np.uint64(31), out=scratch)
    values ^= scratch
    return values


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """[W - n + 1] uint64: equal where n words in a row are equal, bits well spread; empty for fewer words."""
    count = max(0, len(hashes) - n + 1)
    rolled = hashes[:count].copy()
    for k in range(1, n):
        rolled *= STEP
        rolled += hashes[k : count + k]
    return mix(rolled)


def joined(hashes: np.ndarray) -> np.uint64:
    """The hash of all words [W >= 1] as one n-gram."""
    return np.uint64(ngrams(hashes, len(hashes))[0])


class CharacterTable:
    """Small form and kind of each code point, looked up a page at a time when a text first has a character of it."""

    def __init__(self) -> None:
        self.packed = np.full(0x110000, UNKNOWN, np.uint32)  # kind << KIND_SHIFT | code point of the small form

    def of(self, codes: np.ndarray) -> np.ndarray:
        """[len(codes)] uint32."""
        places = codes.astype(np.intp)
        found = self.packed.take(places)
        unknown = codes[found == UNKNOWN]
        if not len(unknown):
            return found
        for page in sorted({code // PAGE for code in unknown.tolist()}):
            characters = map(chr, range(page * PAGE, (page + 1) * PAGE))
            self.packed[page * PAGE : (page + 1) * PAGE] = [kind(c) << KIND_SHIFT | small(c) for c in characters]
        return self.packed.take(places)


@lru_cache(maxsize=1)
def character_table() -> CharacterTable:
    return CharacterTable()


def small(character: str) -> int:
    """Code point of the lower-case form; of the character itself where that form has more than one."""
    low = character.lower().replace("ς", "σ")  # the one letter with two small forms, by its place in the word
    return ord(low) if len(low) == 1 else ord(character)


@lru_cache(maxsize=1)
def ascii_kinds() -> bytes:
    """A table for bytes.translate."""
    return bytes(kind(chr(code)) for code in range(256))


def kind(character: str) -> int:
    """What a character is to a word: part of one, one by itself, a symbol or nothing."""
    category = unicodedata.category(character)
    if unspaced_pattern().match(character) and category[0] in "LMN":
        return SINGLE
    if category == "Nd":
        return DIGIT
    if category[0] in "LMN":
        return LETTER
    return SPACE if category[0] in "ZC" else SYMBOL

"""Cheap counts over batches of text, for the data card: words, and spans of words that come again and again.

Both run inside the pipeline, so they look at bytes and line beginnings rather than at tokens (`CorpusStats` says what
they cost).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pyarrow as pa

from luopan.corpus.words import CHARACTERS_PER_WORD, unspaced_pattern

SPAN_WORDS = 8
SPAN_CHARACTERS = SPAN_WORDS * CHARACTERS_PER_WORD  # of a script that is written without spaces
MAX_SPANS = 1 << 16  # different spans that are held; beyond it fewer are looked at, none is forgotten in part
SAMPLED_PREFIX = 16  # characters by which a span is chosen
SHORTEST = 15  # characters: eight words of one letter, with their spaces


@lru_cache(maxsize=1)
def unspaced_leads() -> np.ndarray:
    """[65536] bool, by the first two UTF-8 bytes of a character: whether its script is written without spaces.

    Two bytes do not tell all characters apart: some half-width signs beside the half-width kana count as well.
    """
    table = np.zeros(1 << 16, bool)
    is_unspaced = unspaced_pattern().match
    for code in [*range(0x800, 0xD800), *range(0xE000, 0x10000), *range(0x20000, 0x40000, 0x1000)]:
        if is_unspaced(chr(code)):
            lead, second = chr(code).encode("utf-8")[:2]
            table[lead << 8 | second] = True
    return table


@lru_cache(maxsize=1)
def space_bytes() -> np.ndarray:
    """[256] bool: the bytes of ASCII white space."""
    table = np.zeros(256, bool)
    table[list(b" \t\n\v\f\r")] = True
    return table


def utf8_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of all texts in a row [B] uint8, where each begins and the last ends [N + 1]); no copy of the text."""
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    held = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return held[ends[0] : ends[-1]], ends - ends[0]


def words_in(texts: pa.StringArray) -> np.ndarray:
    """[N] int64 words of each text: what white space parts, where two characters of an unspaced script make a word."""
    data, ends = utf8_of(texts)
    if not len(data):
        return np.zeros(len(texts), np.int64)
    space = space_bytes()[data]
    starts = ~space
    starts[1:] &= space[:-1]
    first = ends[:-1][ends[:-1] < len(data)]  # where a text begins a word begins, whatever stood before it
    starts[first] = ~space[first]
    leads = np.flatnonzero(data >= 0xE0)
    if len(leads):
        pairs = data[leads].astype(np.uint16) << 8 | data[np.minimum(leads + 1, len(data) - 1)]
        leads = leads[unspaced_leads()[pairs]]
        starts[leads] = False
    spaced = np.diff(np.searchsorted(np.flatnonzero(starts), ends))
    unspaced = np.diff(np.searchsorted(leads, ends))
    return (spaced + unspaced // CHARACTERS_PER_WORD).astype(np.int64)


class SpanCounts:
    """How often spans of eight words (sixteen unspaced characters) that begin a line or a sentence occur, and in how
    many documents, case aside.

    Which spans are looked at depends on a hash of the span: at first all, then every second, every fourth, … so that no
    more than `MAX_SPANS` are held. What is held was always looked at, so its counts are exact, and the result depends
    on the documents alone, not on their order. What is not held is not known: boilerplate of `k` lines or sentences is
    missed with probability (1 - 1 / one_in)^k. A span that has more than single spaces in its beginning is not counted.
    """

    def __init__(self, most: int = MAX_SPANS) -> None:
        self.most = most
        self.level = 0
        self.counts: dict[str, list[int]] = {}  # span -> [occurrences, documents]

    @property
    def one_in(self) -> int:
        """One in so many spans is looked at."""
        return 1 << self.level

    def add(self, texts: Iterable[str]) -> None:
        """Count the spans of each text."""
        for text in texts:
            mask = self.one_in - 1
            seen: set[str] = set()
            for piece in text.replace(". ", "\n").replace("。", "\n").split("\n"):
                if len(piece) < SHORTEST:
                    continue
                prefix = piece.lstrip()[:SAMPLED_PREFIX].lower()
                if mask and zlib.crc32(prefix.encode("utf-8", "surrogatepass")) & mask:
                    continue
                span = span_at_start(piece)
                if span is None or span[:SAMPLED_PREFIX] != prefix:
                    continue  # odd spaces in the prefix: left out always, or it would depend on when it came
                count = self.counts.setdefault(span, [0, 0])
                count[0] += 1
                if span not in seen:
                    seen.add(span)
                    count[1] += 1
            if len(self.counts) > self.most:
                self.thin()

    def merge(self, other: SpanCounts) -> None:
        """Add the counts of other documents."""
        if other.level > self.level:
            self.level = other.level
            self.keep_sampled()
        mask = self.one_in - 1
        for span, (occurrences, documents) in other.counts.items():
            if not hashed(span) & mask:
                count = self.counts.setdefault(span, [0, 0])
                count[0] += occurrences
                count[1] += documents
        self.thin()

    def thin(self) -> None:
        """Look at fewer spans until no more than `most` are held."""
        while len(self.counts) > self.most and self.level < 32:
            self.level += 1
            self.keep_sampled()

    def keep_sampled(self) -> None:
        mask = self.one_in - 1
        self.counts = {span: count for span, count in self.counts.items() if not hashed(span) & mask}

    def top(self, most: int) -> list[tuple[str, int, int]]:
        """(span, occurrences, documents) of those in two documents or more, the most frequent first."""
        repeated = [(span, count[0], count[1]) for span, count in self.counts.items() if count[1] > 1]
        return sorted(repeated, key=lambda item: (-item[2], -item[1], item[0]))[:most]


def hashed(span: str) -> int:
    """A number that depends on the beginning of a span alone, the same in every process."""
    return zlib.crc32(span[:SAMPLED_PREFIX].encode("utf-8", "surrogatepass"))


def span_at_start(piece: str) -> str | None:
    """The first eight words of a line or sentence, or sixteen characters where it has no spaces; None if shorter."""
    words = piece.split(None, SPAN_WORDS)
    if len(words) >= SPAN_WORDS:
        return " ".join(words[:SPAN_WORDS]).lower()
    if piece.isascii():
        return None
    start = piece.strip()[:SPAN_CHARACTERS]
    is_unspaced = len(start) == SPAN_CHARACTERS and 2 * len(unspaced_pattern().findall(start)) >= SPAN_CHARACTERS
    return start.lower() if is_unspaced else None

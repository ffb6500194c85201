"""Cheap counts over batches of text, for the data card: words, and spans of words that come again and again.

Both run inside the pipeline, so they look at bytes of a whole batch rather than at tokens (`CorpusStats` says what they
cost).
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

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


def utf8_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """(bytes of all texts in a row [B] uint8, where each begins and the last ends [N + 1]); no copy of the text."""
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    held = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return held[ends[0] : ends[-1]], ends - ends[0]


class WordEdges(NamedTuple):
    """Where the words of N texts are: what ASCII white space parts, in bytes of all texts in a row."""

    data: np.ndarray  # [B] uint8
    ends: np.ndarray  # [N + 1] where each text begins and the last ends
    starts: np.ndarray  # [W]
    stops: np.ndarray  # [W]
    leads: np.ndarray  # [U] where characters of unspaced scripts begin

    def unspaced(self) -> np.ndarray:
        """[N] characters of unspaced scripts in each text."""
        return np.diff(np.searchsorted(self.leads, self.ends))

    def counts(self) -> np.ndarray:
        """[N] int64 words of each text; two characters of an unspaced script make one."""
        starts = self.starts
        if len(self.leads):
            begins = np.zeros(len(self.data), bool)
            begins[starts] = True
            begins[self.leads] = False
            starts = np.flatnonzero(begins)
        spaced = np.diff(np.searchsorted(starts, self.ends))
        return (spaced + self.unspaced() // CHARACTERS_PER_WORD).astype(np.int64)


def word_edges(texts: pa.StringArray) -> WordEdges:
    """The words of `texts` by a few passes over their bytes."""
    data, ends = utf8_of(texts)
    if not len(data):
        nothing = np.zeros(0, np.int64)
        return WordEdges(data, ends, nothing, nothing, nothing)
    space = (data == ord(" ")) | (data - np.uint8(9) < 5)  # \t \n \v \f \r
    firsts, lasts = ~space, ~space
    firsts[1:] &= space[:-1]
    lasts[:-1] &= space[1:]
    # Where a text begins or ends a word does, whatever stands beside it.
    begins, finals = ends[:-1][ends[:-1] < len(data)], ends[1:][ends[1:] > 0] - 1
    firsts[begins], lasts[finals] = ~space[begins], ~space[finals]
    leads = np.flatnonzero(data >= 0xE0)
    pairs = data[leads].astype(np.uint16) << 8 | data[np.minimum(leads + 1, len(data) - 1)]
    return WordEdges(data, ends, np.flatnonzero(firsts), np.flatnonzero(lasts) + 1, leads[unspaced_leads()[pairs]])


def words_in(texts: pa.StringArray) -> np.ndarray:
    """[N] int64 words of each text: what white space parts, where two characters of an unspaced script make a word."""
    return word_edges(texts).counts()


class SpanCounts:
    """How often spans of eight words (sixteen unspaced characters) that begin a line or a sentence occur, and in how
    many documents, case aside.

    Which spans are looked at depends on a hash of the span: at first all, then every second, every fourth, … so that no
    more than `MAX_SPANS` are held. What is held was always looked at, so its counts are exact, and the result depends
    on the documents alone, not on their order. What is not held is not known: boilerplate of `k` lines or sentences is
    missed with probability (1 - 1 / one_in)^k. A span with more than single spaces between its words is not counted.
    """

    def __init__(self, most: int = MAX_SPANS) -> None:
        self.most = most
        self.level = 0
        self.counts: dict[str, list[int]] = {}  # span -> [occurrences, documents]

    @property
    def one_in(self) -> int:
        """One in so many spans is looked at."""
        return 1 << self.level

    def add(self, texts: Sequence[str]) -> None:
        """Count the spans of each text."""
        self.add_words(word_edges(pa.array(texts, pa.string())))

    def add_words(self, words: WordEdges) -> None:
        """Count the spans of each text."""
        raw = words.data.tobytes()
        owners, starts, stops = spaced_spans(words)
        spans = [raw[start:stop].decode("utf-8").lower() for start, stop in zip(starts.tolist(), stops.tolist())]
        bounds = np.searchsorted(owners, np.arange(len(words.ends))).tolist()
        for text, unspaced in enumerate(words.unspaced().tolist()):
            if unspaced:
                self.count(unspaced_spans(raw[words.ends[text] : words.ends[text + 1]].decode("utf-8")))
            else:
                self.count(spans[bounds[text] : bounds[text + 1]])

    def count(self, spans: list[str]) -> None:
        """Count the spans of one text."""
        if self.level:
            mask = self.one_in - 1
            spans = [span for span in spans if not hashed(span) & mask]
        counts = self.counts
        for span, times in Counter(spans).items() if len(set(spans)) < len(spans) else zip(spans, repeat(1)):
            count = counts.get(span)
            if count is None:
                counts[span] = [times, 1]
            else:
                count[0] += times
                count[1] += 1
        if len(counts) > self.most:
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


def spaced_spans(words: WordEdges) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(text, first byte, end), each [spans], of eight words with single spaces that begin a line or sentence."""
    data, ends = words.data, words.ends
    if len(words.starts) < SPAN_WORDS:
        return (np.zeros(0, np.int64),) * 3
    lines, dots = np.flatnonzero(data == ord("\n")), data == ord(".")
    dots[:-1] &= data[1:] == ord(" ")
    dots[ends[1:][ends[1:] > 0] - 1] = False
    sentences = np.flatnonzero(dots)
    begins = np.sort(np.concatenate([ends[:-1], lines + 1, sentences + 2]))
    limits = np.sort(np.concatenate([ends[1:], lines, sentences]))
    first = np.searchsorted(words.starts, begins)
    last = np.minimum(first + SPAN_WORDS - 1, len(words.starts) - 1)
    good = (words.starts[last] < limits) & (last - first == SPAN_WORDS - 1)
    first, last, limits = first[good], last[good], limits[good]
    single = np.ones(len(first), bool)
    for word in range(SPAN_WORDS - 1):
        stops = words.stops[first + word]
        single &= (words.starts[first + word + 1] - stops == 1) & (data[stops] == ord(" "))
    starts = words.starts[first[single]]
    stops = np.minimum(words.stops[last[single]], limits[single])  # the full stop before a space is not of the span
    return np.searchsorted(ends, starts, side="right") - 1, starts, stops


def unspaced_spans(text: str) -> list[str]:
    """The spans of a text that has characters of an unspaced script, which takes a look at every line and sentence."""
    found = []
    for piece in text.replace(". ", "\n").replace("。", "\n").split("\n"):
        span = span_at_start(piece) if len(piece) >= SHORTEST else None
        if span is not None and piece.lstrip().lower().startswith(span):  # not with odd spaces
            found.append(span)
    return found


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

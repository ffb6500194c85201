"""The step `gopher_quality`: Gopher's rules about words and lines (Rae et al. 2021, arXiv:2112.11446, A.1.1).

Words are those of `words.py`. Rules about word length and English stop words are left out for scripts that are written
without spaces. By default punctuation marks are no words: a page of dialogue would count as lacking letters
(`symbols_are_words`, datatrove's way, drops one in sixteen 4 kB pieces of novels). `max_symbol_ratio` is our own rule.
"""

from __future__ import annotations

from itertools import islice

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.filter_config import GopherQualityConfig
from luopan.corpus.verdict import Finding, above, below, first
from luopan.corpus.words import Reading, wording

STOP_WORDS = ("the", "of", "to", "and", "that", "be", "with", "have")
ELLIPSES = ("...", "…")
BULLETS = ("-", "•")


def gopher_quality(batch: DocumentBatch, config: GopherQualityConfig) -> Outcome:
    """Rejects a document by the first of `RULES` that it breaks."""
    return judge(batch, "gopher_quality", lambda row: first(RULES, wording(batch.reading(row), config), config))


def length(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Too few or too many words; two characters of an unspaced script count as one word."""
    return below("min_words", reading.word_count, config.min_words) or above(
        "max_words", reading.word_count, config.max_words
    )


def mean_word_length(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Mean characters per word outside the range of written language: lists of symbols, run-together text."""
    if not reading.wants_spaces:
        return None
    mean = reading.tally.word_characters / max(1, reading.tally.words)
    return below("min_mean_word_length", mean, config.min_mean_word_length) or above(
        "max_mean_word_length", mean, config.max_mean_word_length
    )


def symbols(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Share of the characters (white space aside) that belong to no word: tables, ASCII art, markup."""
    counted = reading.tally
    share = counted.symbol_characters / max(1, counted.symbol_characters + counted.word_characters)
    return above("max_symbol_ratio", share, config.max_symbol_ratio)


def hashes_and_ellipses(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Hash signs per word, ellipses per word."""
    text, words = reading.text, max(1, per_word(reading, config))
    ellipses = sum(text.count(mark) for mark in ELLIPSES)
    return above("max_hash_per_word", text.count("#") / words, config.max_hash_per_word) or above(
        "max_ellipsis_per_word", ellipses / words, config.max_ellipsis_per_word
    )


def line_shapes(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Share of lines that start with a bullet, or end in an ellipsis (teasers). Blank lines do not count."""
    lines = reading.lines
    if not lines:
        return None
    bullets = sum([line.lstrip()[:1] in BULLETS for line in lines])
    teasers = sum([line.rstrip().endswith(ELLIPSES) for line in lines])
    return above("max_bullet_lines", bullets / len(lines), config.max_bullet_lines) or above(
        "max_ellipsis_lines", teasers / len(lines), config.max_ellipsis_lines
    )


def alphabetic_words(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """Share of the words with at least one letter: tables of figures."""
    share = reading.tally.words_with_letter / max(1, per_word(reading, config))
    return below("min_alphabetic_words", share, config.min_alphabetic_words)


def stop_words(reading: Reading, config: GopherQualityConfig) -> Finding | None:
    """How many of eight common English words occur; only for English, so off unless asked for."""
    if config.min_stop_words is None or not reading.wants_spaces:
        return None
    # What stands between spaces is a token, which settles most texts without a look at the others.
    plain = (word for word in STOP_WORDS if f" {word} " in reading.text)
    if len(list(islice(plain, config.min_stop_words))) == config.min_stop_words:
        return None
    return below("min_stop_words", len(reading.counts.keys() & STOP_WORDS), config.min_stop_words)


def per_word(reading: Reading, config: GopherQualityConfig) -> int:
    """What shares per word are divided by."""
    return reading.token_count if config.symbols_are_words else reading.tally.words


# Cheap ones first: the first finding ends the search.
RULES = (length, mean_word_length, symbols, hashes_and_ellipses, line_shapes, alphabetic_words, stop_words)

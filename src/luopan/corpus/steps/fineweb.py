"""The step `fineweb`: FineWeb's own rules about lines (Penedo et al. 2024, arXiv:2406.17557, section 3.5).

Thai and Lao end no sentence with a mark, so the rule about end marks is left out for them. A character of the other
unspaced scripts says as much as three Latin letters: lines of them are short up to a third of `short_line`.
"""

from __future__ import annotations

from luopan.corpus.batch import DocumentBatch, Outcome, judge
from luopan.corpus.filter_config import FineWebConfig
from luopan.corpus.repetition import repeated
from luopan.corpus.sentences import UNMARKED, terminal_marks
from luopan.corpus.verdict import Finding, above, below, first
from luopan.corpus.words import Reading

DENSITY = 3  # Latin letters (with the spaces between words) to a character of an unspaced script


def fineweb(batch: DocumentBatch, config: FineWebConfig) -> Outcome:
    """Rejects a document by the first of `RULES` that it breaks."""
    return judge(batch, "fineweb", lambda row: first(RULES, batch.reading(row), config))


def terminal_lines(reading: Reading, config: FineWebConfig) -> Finding | None:
    """Share of the lines that end in a mark that ends a sentence (of any script): menus and lists have few."""
    lines, least = reading.lines, config.min_terminal_lines
    if least is None:
        return None
    marks = terminal_marks()
    share = sum(line[-1] in marks for line in lines) / max(1, len(lines))
    if share >= least or unmarked(reading):
        return None
    return below("min_terminal_lines", share, least)


def short_lines(reading: Reading, config: FineWebConfig) -> Finding | None:
    """Share of the lines that are short."""
    lines, most = reading.lines, config.max_short_lines
    if most is None:
        return None
    short = [line for line in lines if len(line) <= config.short_line]
    if len(short) <= most * len(lines):
        return None
    limit = config.short_line if reading.wants_spaces else config.short_line / DENSITY
    return above("max_short_lines", sum(len(line) <= limit for line in short) / max(1, len(lines)), most)


def duplicate_line_characters(reading: Reading, config: FineWebConfig) -> Finding | None:
    """Share of the characters, line ends aside, in lines that occurred before."""
    _, characters = repeated(reading.lines)
    size = len(reading.text) - reading.text.count("\n")
    return above("max_duplicate_line_characters", characters / max(1, size), config.max_duplicate_line_characters)


def newlines(reading: Reading, config: FineWebConfig) -> Finding | None:
    """Line ends per word, where punctuation marks count as words: lists have many."""
    most = config.max_newlines_per_word
    ends = reading.text.count("\n")
    # Between white space there is one token at least, which settles most texts before they are split into words.
    if most is None or ends <= most * len(reading.text.split(None, int(ends / most) + 1 if most else -1)):
        return None
    tokens = reading.token_count - reading.tally.words + reading.word_count
    return above("max_newlines_per_word", ends / max(1, tokens), most)


def unmarked(reading: Reading) -> bool:
    """Most of the text is in a script without end marks."""
    return not reading.text.isascii() and len(UNMARKED.findall(reading.text)) * 2 > reading.size


RULES = (terminal_lines, short_lines, duplicate_line_characters, newlines)

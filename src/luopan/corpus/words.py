"""Split any script into words with one regular expression, fast enough to filter with.

Letters, digits and combining marks make words; each punctuation mark or symbol is a token of its own, as the tokenizers
behind Gopher's and FineWeb's figures have it. Scripts written without spaces (Chinese, Japanese kana, Thai, Lao,
Khmer, Burmese) give one token per character: a segmenter would give about half as many. `wants_spaces` tells the two
apart, so that rules about word length and stop words are left out where they mean nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from luopan.corpus.english import split_english

# Hiragana, katakana, Han, Thai, Lao, Burmese, Khmer.
UNSPACED = (
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9d"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
)
CHARACTERS_PER_WORD = 2  # of the unspaced scripts, roughly what segmenters give


@lru_cache(maxsize=1)
def marks() -> str:
    """The inside of a character class with the combining marks of the basic plane (all planes: thirty times slower).

    Python's word class leaves them out and so breaks Hindi, Thai or Hebrew with points into pieces.
    """
    ranges: list[list[int]] = []
    for code in [*range(0x300, 0xD800), *range(0xFB00, 0x10000)]:
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(f"{chr(low)}-{chr(high)}" for low, high in ranges)


@lru_cache(maxsize=1)
def mark_pattern() -> re.Pattern[str]:
    """Finds one combining mark."""
    return re.compile(f"[{marks()}]")


@lru_cache(maxsize=2)
def token_pattern(marked: bool) -> re.Pattern[str]:
    """Finds tokens: a run of letters, digits and marks (with apostrophes inside), or one symbol.

    Without marks it is faster, so that form is used wherever it is right.
    """
    if not marked:
        return re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
    return re.compile(rf"[\w{marks()}]+(?:['’][\w{marks()}]+)*|[^\w\s{marks()}]")


@lru_cache(maxsize=2)
def unspaced_pattern(split: bool = False) -> re.Pattern[str]:
    """Finds one character of an unspaced script; with `split`, these one by one and what is between them whole."""
    return re.compile(f"[{UNSPACED}]|[^{UNSPACED}]+" if split else f"[{UNSPACED}]")


def split_words(text: str) -> list[str]:
    """Words, unspaced characters and symbols of `text`, in order."""
    if text.isascii():
        return token_pattern(False).findall(text)
    tokens = token_pattern(mark_pattern().search(text) is not None).findall(text)
    if not unspaced_pattern().search(text):
        return tokens
    split = unspaced_pattern(split=True).findall
    found: list[str] = []
    for token in tokens:
        if len(token) > 1 and not token.isascii():
            found.extend(split(token))
        else:
            found.append(token)
    return found


class Tally(NamedTuple):
    """Counts over all tokens of a text; a word is a token of letters, digits or marks, the rest are symbols."""

    words: int
    unspaced: int  # words that are one character of a script written without spaces
    words_with_letter: int
    word_characters: int
    symbol_characters: int
    longest: int  # characters of the longest token


class TokenArrays(NamedTuple):
    """The tokens of a text without their strings (`token_arrays.py`)."""

    hashes: np.ndarray  # [tokens] uint64: equal where the tokens are
    starts: np.ndarray  # [tokens] int32 characters before each
    ends: np.ndarray  # [tokens] int32
    tally: Tally


def tally(tokens: Sequence[str], counts: Mapping[str, int], may_be_unspaced: bool) -> Tally:
    """Looks at the distinct tokens, of which there are far fewer than tokens, and closely only at those that are not
    letters throughout."""
    symbols = symbol_characters = without_letter = 0
    for token in [token for token in counts if not token.isalpha()]:
        if not is_wordlike(token):
            symbols += counts[token]
            symbol_characters += len(token) * counts[token]
        elif not has_letter(token):
            without_letter += counts[token]
    unspaced = 0
    if may_be_unspaced:
        single = unspaced_pattern().fullmatch
        found = [token for token in counts if token > "\u0dff" and single(token)]
        unspaced = sum(counts[token] for token in found if is_wordlike(token))  # not the middle dot between kana
    words = len(tokens) - symbols
    word_characters = len("".join(tokens)) - symbol_characters
    longest = max(map(len, counts), default=0)
    return Tally(words, unspaced, words - without_letter, word_characters, symbol_characters, longest)


def is_wordlike(token: str) -> bool:
    """True for a token that holds a letter, digit or combining mark."""
    return token[0].isalnum() or any(unicodedata.category(character)[0] in "LMN" for character in token)


def has_letter(token: str) -> bool:
    """True for a word with a letter in it, or of a script whose vowels are marks."""
    return not token.isdigit() and any(unicodedata.category(character)[0] in "LM" for character in token)


class Reading:
    """What the filters look at in a text, each computed once and only if asked for.

    Where a batch has read the text already (`arrays`), strings of tokens are made for those alone who ask for them.
    """

    def __init__(self, text: str, split: Callable[[str], list[str]] = split_words) -> None:
        self.text = text
        self.size = max(1, len(text))  # characters
        self._split = split
        self.arrays: TokenArrays | None = None

    @cached_property
    def english(self) -> Reading:
        """The same text in the words of an English tokenizer."""
        return Reading(self.text, split_english)

    @cached_property
    def tokens(self) -> list[str]:
        """Words and symbols in order."""
        if self.arrays is None:
            return self._split(self.text)
        text = self.text
        return [text[start:end] for start, end in zip(self.arrays.starts.tolist(), self.arrays.ends.tolist())]

    def token(self, at: int) -> str:
        """The token of that number."""
        return self.tokens[at] if self.arrays is None else self.text[self.arrays.starts[at] : self.arrays.ends[at]]

    @property
    def token_count(self) -> int:
        """Words and symbols."""
        return len(self.tokens if self.arrays is None else self.arrays.hashes)

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each token occurs."""
        return Counter(self.tokens)

    @cached_property
    def tally(self) -> Tally:
        if self.arrays is not None:
            return self.arrays.tally
        return tally(self.tokens, self.counts, may_be_unspaced=not self.text.isascii())

    @property
    def word_count(self) -> float:
        """Words; two characters of an unspaced script count as one."""
        return self.tally.words - self.tally.unspaced * (1 - 1 / CHARACTERS_PER_WORD)

    @property
    def wants_spaces(self) -> bool:
        """Most words come from a script that puts spaces between them."""
        return self.tally.unspaced * 2 < max(1, self.tally.words)

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """What blank lines part."""
        return [part.strip("\n") for part in self.text.split("\n\n") if part and not part.isspace()]

    @cached_property
    def token_hashes(self) -> np.ndarray:
        """[tokens] uint64. May differ from run to run as Python's hash does; only equality is ever looked at."""
        if self.arrays is not None:
            return self.arrays.hashes
        return np.fromiter(map(hash, self.tokens), np.int64, len(self.tokens)).view(np.uint64)

    @cached_property
    def rolled(self) -> tuple[int, np.ndarray]:
        """(n, hashes of the n-grams asked for last): the next n starts from there."""
        return 1, self.token_hashes

    @cached_property
    def token_lengths(self) -> np.ndarray:
        """[tokens] characters of each token, int64 or int32."""
        if self.arrays is not None:
            return self.arrays.ends - self.arrays.starts
        return np.fromiter(map(len, self.tokens), np.int64, len(self.tokens))


class HasWording(Protocol):
    """The configuration of a step whose words may be those of an English tokenizer."""

    @property
    def english_words(self) -> bool: ...


def wording(reading: Reading, config: HasWording) -> Reading:
    """The reading in the words that a step asks for."""
    return reading.english if config.english_words else reading

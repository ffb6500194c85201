"""What a recipe says about clean-up, language and the published filters. Imports nothing heavy.

null instead of a block leaves the step out; null instead of a threshold turns the rule off.
"""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import Field, field_validator, model_validator

from luopan.corpus.config_base import Count, Fraction, Frozen
from luopan.corpus.languages import LANGUAGES

TOP_NGRAM: dict[int, float | None] = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAMS: dict[int, float | None] = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
ENGLISH_WORDS = "split words by spaCy's rules for English, as datatrove does; for English text only"


class NormaliseConfig(Frozen):
    """How text is made regular before anything looks at it."""

    fix_encoding: bool = Field(default=True, description="mend text that was decoded wrongly (â€™ for ’), with ftfy")
    unescape_entities: bool = Field(
        default=True, description="&amp;eacute; to é in texts without a <, which are taken for markup"
    )
    nfc: bool = Field(default=True, description="Unicode normal form C")
    strip_control: bool = Field(
        default=True, description="drop control, zero-width and bidirectional-override characters"
    )
    whitespace: bool = Field(default=True, description="odd spaces to a plain space, no spaces at line ends")
    strip_gutenberg: bool = Field(
        default=True, description="drop Project Gutenberg's header and licence where its marks stand"
    )
    max_blank_lines: Count = Field(default=2, description="longer runs of blank lines are cut to this many")


class LanguageConfig(Frozen):
    """Tell each document's language with a packaged model (fastText's lid.176) and keep the ones asked for."""

    languages: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="codes as the model has them: en, zh, de …; null keeps every language"
    )
    min_score: Fraction | None = Field(default=0.65, description="how sure the model must be of the language")

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for code in languages or ():
            if code not in LANGUAGES:
                near = difflib.get_close_matches(code, sorted(LANGUAGES), 1, 0.5)
                raise ValueError(
                    f"{code!r} is no language that the model knows{f'; did you mean {near[0]!r}?' if near else ''} "
                    "(it takes ISO 639-1 codes such as en, zh, de)"
                )
        return languages


class GopherRepetitionConfig(Frozen):
    """Gopher's rules about repeated lines, paragraphs and n-grams (arXiv:2112.11446, table A1)."""

    max_duplicate_lines: Fraction | None = 0.3
    max_duplicate_line_characters: Fraction | None = 0.2
    max_duplicate_paragraphs: Fraction | None = 0.3
    max_duplicate_paragraph_characters: Fraction | None = 0.2
    max_top_ngram: dict[int, Fraction | None] = Field(
        default=TOP_NGRAM, description="by n: share of the characters; what is written changes single ones, null is off"
    )
    min_top_ngram_count: Count = Field(
        default=2, description="a top n-gram has to occur this often to count; datatrove: 1"
    )
    max_duplicate_ngrams: dict[int, Fraction | None] = Field(
        default=DUPLICATE_NGRAMS,
        description="by n: share of the characters; what is written changes single ones, null is off",
    )
    english_words: bool = Field(default=False, description=ENGLISH_WORDS)

    @field_validator("max_top_ngram", "max_duplicate_ngrams")
    @classmethod
    def _long_enough(cls, limits: dict[int, float | None]) -> dict[int, float | None]:
        for n in limits:
            if not 1 <= n <= 64:
                raise ValueError(f"n-grams of {n} words: n has to be 1 to 64")
        return limits

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> GopherRepetitionConfig:
        if not any(self.max_top_ngram.values()) and "min_top_ngram_count" in self.model_fields_set:
            raise ValueError("min_top_ngram_count has no effect: max_top_ngram is empty")
        return self


class GopherQualityConfig(Frozen):
    """Gopher's rules about words and lines (arXiv:2112.11446, page 40).

    `min_stop_words` is off: Gopher asks for 2 of 8 English words, which would drop every other language.
    """

    min_words: Count | None = 50
    max_words: Count | None = 100_000
    min_mean_word_length: float | None = 3
    max_mean_word_length: float | None = 10
    max_symbol_ratio: Fraction | None = Field(default=0.35, description="share of the visible characters outside words")
    max_hash_per_word: float | None = 0.1
    max_ellipsis_per_word: float | None = 0.1
    max_bullet_lines: Fraction | None = 0.9
    max_ellipsis_lines: Fraction | None = 0.3
    min_alphabetic_words: Fraction | None = 0.8
    symbols_are_words: bool = Field(
        default=False,
        description="punctuation marks count as words in the shares per word, as in datatrove",
    )
    english_words: bool = Field(default=False, description=ENGLISH_WORDS)
    min_stop_words: Count | None = None


class C4Config(Frozen):
    """C4's rules (arXiv:1910.10683) for lines, which are dropped, and documents; as FineWeb uses them by default."""

    terminal_punctuation: Literal["any", "ascii"] | None = Field(
        default=None,
        description="drop lines without an end mark: of any script, or C4's own . ? ! \" '; FineWeb drops none",
    )
    min_words_per_line: Count | None = Field(default=3, description="shorter lines are dropped")
    max_word_length: Count | None = Field(default=1000, description="lines with a longer word are dropped")
    drop_javascript_lines: bool = True
    drop_policy_lines: bool = Field(default=True, description="lines about cookies, terms of use, privacy")
    remove_citations: bool = Field(default=True, description="[1], [edit], [citation needed]")
    keep_blank_lines: bool = Field(default=False, description="one blank line stays between paragraphs; C4 keeps none")
    max_lorem_ipsum: Count | None = Field(default=0, description="lines with lorem ipsum")
    max_curly_brackets: Count | None = Field(default=0, description="lines with {")
    min_sentences: Count | None = Field(default=5, description="in the lines that are left")


class FineWebConfig(Frozen):
    """FineWeb's own rules (arXiv:2406.17557)."""

    min_terminal_lines: Fraction | None = Field(default=0.12, description="share of lines that end a sentence")
    max_short_lines: Fraction | None = Field(default=0.67, description="share of lines that are short")
    short_line: Count = Field(default=30, description="characters up to which a line is short")
    max_duplicate_line_characters: Fraction | None = 0.01
    max_newlines_per_word: float | None = 0.3

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> FineWebConfig:
        if self.max_short_lines is None and "short_line" in self.model_fields_set:
            raise ValueError("short_line has no effect: max_short_lines is null")
        return self

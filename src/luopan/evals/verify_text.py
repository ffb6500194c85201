"""What a text is like: its language, its length, how much it repeats itself.

Limits: fastText's lid.176 guesses below some fifty characters and confuses close relatives; code and names have no
language. Sentences are counted by their marks (`luopan.corpus.sentences`). `repetition` sees the same words only.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from luopan.evals.verdict import Verdict, judged

Unit = Literal["characters", "words", "sentences", "lines", "paragraphs", "tokens"]


def language(text: str, *, language: str, min_score: float = 0.5) -> Verdict:
    """The text is in this language (fastText's code: "en", "zh") with at least that probability."""
    from luopan.corpus.languages import LANGUAGES
    from luopan.corpus.steps.language import detect

    if language not in LANGUAGES:
        return Verdict(None, f"the language model does not know {language!r}")
    if not text.strip():
        return Verdict(0.0, "the answer is empty")
    code, probability = detect(text)
    return judged(code == language and probability >= min_score, f"{code} ({probability:.2f}), expected {language}")


def length(text: str, *, unit: Unit = "words", min: int = 0, max: int | None = None, tokenizer: str = "") -> Verdict:
    """Between `min` and `max` units. Two characters of a script without spaces count as one word.

    Tokens are those of the tokenizer in the folder `tokenizer`. An empty answer is never long enough.
    """
    if (not min and max is None) or (max is not None and max < min):
        return Verdict(
            None, f"no length is between {min} and {max}" if min or max is not None else "neither min nor max"
        )
    if (unit == "tokens") != bool(tokenizer):
        return Verdict(None, "tokens are counted with a tokenizer, and it counts nothing else")
    found = count(text, unit, tokenizer)
    if not text.strip():
        return Verdict(0.0, "the answer is empty")
    return judged(found >= min and (max is None or found <= max), f"{found:g} {unit}, not {min} to {max or 'any'}")


def count(text: str, unit: Unit, tokenizer: str = "") -> float:
    """How many of a unit a text has."""
    from luopan.corpus.sentences import count_sentences
    from luopan.corpus.words import Reading

    reading = Reading(text)
    match unit:
        case "characters":
            return len(text)
        case "words":
            return reading.word_count
        case "sentences":
            return sum(count_sentences(line, len(line)) for line in reading.lines)
        case "lines":
            return len(reading.lines)
        case "paragraphs":
            return len(reading.paragraphs)
        case "tokens":
            return len(_tokenizer(tokenizer).encode(text, add_special_tokens=False))


def repetition(text: str, *, n: int = 4, max_share: float = 0.2, graded: bool = False) -> Verdict:
    """At most this share of the n-grams of words occurred before; with `graded` the score is 1 minus the share.

    A text of fewer than n words has no n-gram and repeats nothing, but an empty one scores 0.
    """
    from luopan.corpus.words import split_words

    if n < 1 or not 0 <= max_share <= 1:
        return Verdict(None, "n is at least 1 and max_share in 0..1")
    if not text.strip():
        return Verdict(0.0, "the answer is empty")
    words = [word.casefold() for word in split_words(text) if any(map(str.isalnum, word))]
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    share = 1 - len(set(grams)) / len(grams) if grams else 0.0
    reason = f"{share:.2f} of the {n}-grams occurred before" if share > max_share else ""
    return Verdict(1 - share if graded else float(share <= max_share), reason, {"repeated": share})


@cache
def _tokenizer(folder: str) -> Any:
    from luopan.tokens.tokenizer import load_tokenizer

    return load_tokenizer(folder)

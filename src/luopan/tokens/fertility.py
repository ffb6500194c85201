"""How tokenizers cut texts of several languages and domains, side by side.

Measured per tokenizer and text: bytes and characters per token, tokens per word (fertility) and the proportion of words
that are cut (Rust et al. 2021, arXiv:2012.15613), speed; and what `luopan.tokens.audit` finds in the vocabulary.
Scripts without spaces have no words to count here: there a character takes the place of a word.

Limits: fewer tokens are cheaper, not by themselves better; only a trained model tells. Speed is that of the
`tokenizers` library on this machine and moment, on as many threads as it takes. A language is guessed from the
beginning of a text: by fastText's model where the data extra is installed, otherwise by script alone.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from luopan.corpus.words import UNSPACED
from luopan.errors import DataError
from luopan.tokens.audit import Audit, audit
from luopan.tokens.encode import encode_plainly
from luopan.tokens.tokenizer import plain_backend

GUESS_CHARACTERS = 4000
SPEED_SECONDS = 1.0  # encoding is repeated for about this long at most


@dataclass(frozen=True)
class TextSample:
    """Texts of one domain in one language."""

    domain: str
    language: str
    texts: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return sum(len(text.encode()) for text in self.texts)


@dataclass(frozen=True)
class Cut:
    """How one tokenizer cuts one sample. `unit` says what a word is: white-space words or single characters."""

    domain: str
    language: str
    unit: str
    tokens: int
    bytes_per_token: float
    characters_per_token: float
    tokens_per_word: float
    continued_word_rate: float


@dataclass(frozen=True)
class Measured:
    """A tokenizer's figures."""

    name: str
    vocabulary: int
    cuts: tuple[Cut, ...]
    megabytes_per_second: float
    audit: Audit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = asdict(self)
        facts["audit"] |= {"unused_share": self.audit.unused_share, "faults": self.audit.faults}
        return facts


def sample(domain: str, texts: Sequence[str], language: str | None = None) -> TextSample:
    """A sample, its language guessed where it is not named. Raises DataError for texts without a word."""
    if not any(text.strip() for text in texts):
        raise DataError("there is no text to measure tokenizers on", where=domain)
    return TextSample(domain, language or guess_language("\n".join(texts)[:GUESS_CHARACTERS]), tuple(texts))


def measure(name: str, tokenizer: PreTrainedTokenizerFast, samples: Sequence[TextSample]) -> Measured:
    """All figures of one tokenizer on all samples. Raises DataError where there are none."""
    if not samples:
        raise DataError("there is no text to measure tokenizers on")
    cuts = tuple(measure_cut(tokenizer, each) for each in samples)
    texts = [text for each in samples for text in each.texts]
    return Measured(name, len(tokenizer), cuts, speed(tokenizer, texts), audit(tokenizer, texts))


def measure_cut(tokenizer: PreTrainedTokenizerFast, texts: TextSample) -> Cut:
    """How one tokenizer cuts one sample.

    Words are encoded behind a space, as they stand in a text, each as often as it comes. Where characters take their
    place, tokens per word are those of the whole text per character: below one where tokens hold several.
    """
    backend = plain_backend(tokenizer)
    tokens = sum(map(len, encode_plainly(backend, texts.texts)))
    characters = sum(map(len, texts.texts))
    unspaced = re.findall(f"[{UNSPACED}]", "".join(texts.texts))
    by_character = 2 * len(unspaced) > sum(not c.isspace() for text in texts.texts for c in text)
    words = Counter(unspaced if by_character else [word for text in texts.texts for word in text.split()])
    total = words.total()
    alone = encode_plainly(backend, [word if by_character else f" {word}" for word in words])
    counts = [(len(ids), times) for ids, times in zip(alone, words.values(), strict=True)]
    per_word = tokens / characters if by_character else sum(length * times for length, times in counts) / total
    return Cut(
        domain=texts.domain,
        language=texts.language,
        unit="character" if by_character else "word",
        tokens=tokens,
        bytes_per_token=texts.size / tokens,
        characters_per_token=characters / tokens,
        tokens_per_word=per_word,
        continued_word_rate=sum(times for length, times in counts if length > 1) / total,
    )


def speed(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Megabytes (10⁶ bytes) encoded per second, the best of a few rounds."""
    backend = plain_backend(tokenizer)
    size = sum(len(text.encode()) for text in texts)
    best, spent = float("inf"), 0.0
    while spent < SPEED_SECONDS:
        start = time.perf_counter()
        encode_plainly(backend, texts)
        best = min(best, time.perf_counter() - start)
        spent += time.perf_counter() - start
    return size / 1e6 / best


def guess_language(text: str) -> str:
    """A language code (en, zh, …) where fastText's model is installed; otherwise the script's name (latin, han, …)."""
    from luopan.corpus.steps.language import detect

    try:
        return detect(text)[0]
    except DataError:  # the library is missing
        return guess_script(text)


def guess_script(text: str) -> str:
    """The script of most letters, by Unicode's names in lower case; "und" where there are none.

    Han with kana among it is "japanese".
    """
    names = Counter(unicodedata.name(c, "").split(" ")[0].lower() for c in text if c.isalpha())
    if not names:
        return "und"
    kana = names["hiragana"] + names["katakana"]
    first = "han" if (best := names.most_common(1)[0][0]) == "cjk" else best
    return "japanese" if kana and first in ("han", "hiragana", "katakana") else first


def relative_tokens(measured: Sequence[Measured]) -> Mapping[str, float]:
    """Tokens over all samples, each tokenizer's as a multiple of the first one's."""
    totals = [sum(cut.tokens for cut in each.cuts) for each in measured]
    return {each.name: total / totals[0] for each, total in zip(measured, totals, strict=True)}

"""Made-up prose for the corpus tests: words without repeats worth the name."""

from __future__ import annotations

import random

VOCABULARY = (
    "river mountain walks under quiet morning light while children gather stones beside water singing softly about "
    "winter bread ships harbours lanterns letters friends distant voices fields garden windows evening thunder paper "
    "music copper ribbon market village stories travellers candle forest bridge summer autumn shadows silver golden"
)
WORDS = VOCABULARY.split()


def prose(seed: int = 0, words: int = 120) -> str:
    """Sentences of ten different words, three to a line."""
    source = random.Random(seed)
    sentences = [" ".join(source.sample(WORDS, 10)).capitalize() + "." for _ in range(words // 10)]
    return "\n".join(" ".join(sentences[at : at + 3]) for at in range(0, len(sentences), 3))
